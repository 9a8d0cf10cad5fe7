package strategy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/internal/nearest"
)

type decider struct {
	in   Input
	kind Kind
	// confined says that the call is for other clusters only, to which it must not go before the
	// policies are known. Served at home it would break its word, so that nobody serves it.
	confined bool
	clusters map[string]*cluster
	own      *cluster
	// verdicts are parallel to in.Instances.
	verdicts []verdict
	plan     []plannedTier
	out      Decision
	state    State
	why      map[Reason]int // what removed the instances of allowed clusters
}

// Decide orders the instances of a service by in.Policy and what the call itself says. It is a pure
// function: equal inputs give equal decisions, whatever the order of in.Instances and in.Cordons, and
// it is safe for concurrent use. The State is to be handed to the next decision of the same service,
// policy and override as Input.Previous; it is empty where the policy holds nothing back. The error, if
// any, is an *InputError; that nobody can be picked is no error but Decision.Unavailable.
func Decide(in Input) (Decision, State, error) {
	d := decider{in: in, why: map[Reason]int{}}
	if err := d.settle(); err != nil {
		return Decision{}, State{}, err
	}
	d.gather()
	d.makePlan()
	d.choose()
	d.place()
	d.finish()
	return d.out, d.state, nil
}

// settle checks what the caller asked for and fixes the strategy to follow.
func (d *decider) settle() error {
	in := &d.in
	d.kind = cmp.Or(in.Override, in.Policy.Strategy, Default)
	if !d.kind.valid() {
		_, err := Parse(string(d.kind))
		if err == nil {
			err = &InputError{BadStrategy, fmt.Sprintf("strategy %q is an alias that was not parsed", d.kind)}
		}
		return err
	}
	if in.Pin != "" {
		if err := d.settlePin(); err != nil {
			return err
		}
	}
	if !in.PoliciesKnown {
		d.confined = d.kind == ExternalOnly || in.Pin != "" && in.Pin != in.Caller.Cluster
		d.kind = LocalOnly
	}
	return nil
}

func (d *decider) settlePin() error {
	in := &d.in
	if _, ok := in.Clusters[in.Pin]; !ok && in.Pin != in.Caller.Cluster && in.ClustersKnown {
		return d.noSuchCluster()
	}
	local := in.Pin == in.Caller.Cluster
	if (local && d.kind.usesLocal()) || (!local && d.kind.usesExternal()) {
		return nil
	}
	if in.Override != "" {
		return &InputError{Contradiction, fmt.Sprintf("strategy %s never uses cluster %s: leave out one of the two", d.kind, quote(in.Pin))}
	}
	// The strategy that the pinned call does follow is the other "only" one, and that is what
	// answers and logs must say.
	d.kind = ExternalOnly
	if local {
		d.kind = LocalOnly
	}
	return nil
}

func (d *decider) noSuchCluster() error {
	names := slices.Sorted(maps.Keys(d.in.Clusters))
	if !slices.Contains(names, d.in.Caller.Cluster) {
		names = append(names, d.in.Caller.Cluster)
	}
	near, _ := nearest.Word(d.in.Pin, names)
	text := fmt.Sprintf("the federation has no cluster %s: did you mean %q?", quote(d.in.Pin), near)
	if len(names) <= 10 {
		text += " Its clusters are " + strings.Join(names, ", ")
	}
	return &InputError{NoSuchCluster, text}
}

// wake notes that the decision is another one at t for the time alone.
func (d *decider) wake(t time.Time) {
	if t.After(d.in.Now) && (d.out.Next.IsZero() || t.Before(d.out.Next)) {
		d.out.Next = t
	}
}

// finish says what kind of decision it became.
func (d *decider) finish() {
	d.out.Strategy = d.kind
	inUse := func(t plannedTier) bool { return t.share > 0 || t.failure != "" }
	serving := slices.IndexFunc(d.plan, inUse)
	if serving < 0 {
		d.out.Unavailable, d.out.Detail = d.unavailable()
		d.out.Detail = oneLine(d.out.Detail)
	}
	for i := range max(serving, 0) {
		for _, c := range d.plan[i].clusters {
			d.out.Degraded = d.out.Degraded || c.expired > 0
		}
	}
	d.out.Rule = d.line()
}
