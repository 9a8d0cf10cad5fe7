package verdict

import (
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// lists judges what everybody shows at each moment: I3, I4, and that nothing is invented.
//
// A list comes some time after the truth, and may show any mixture of changes on the way. What can
// be said of it at any time is that it has no instance that never was, that it keeps those that were
// there from the episode's beginning until then, and that it is no smaller than half of the least
// that there was.
func (e *episode) lists() {
	judged := 0
	for _, v := range e.events {
		if v.View == nil {
			continue
		}
		p := place{v.View.Cluster, v.View.Service}
		truths := e.before(p, v.At)
		if len(truths) == 0 {
			continue // nobody says what is true of it
		}
		judged++
		e.list(v.At, v.View, p, truths)
	}
	if judged == 0 && !e.shown() {
		e.nothing("nobody showed a list")
	}
}

// shown reports whether anybody showed a list before the episode: where none changed in it, none is
// written down.
func (e *episode) shown() bool {
	return slices.ContainsFunc(e.stood, func(v history.Event) bool { return v.View != nil })
}

func (e *episode) list(at time.Duration, v *history.View, p place, truths []truth) {
	for _, id := range v.Instances {
		if !slices.Contains(e.ever[p], id) {
			e.broke(ErrInvented, at, "%s shows %s in %s", v.Who, id, p)
		}
	}
	if v.Unknown && e.mayBeUnknown(v.Who, at) {
		return // it says itself that there may be more
	}
	least := len(truths[0].have)
	always := slices.Clone(truths[0].have)
	for _, t := range truths[1:] {
		least = min(least, len(t.have))
		always = slices.DeleteFunc(always, func(id string) bool { return !slices.Contains(t.have, id) })
	}
	if least > 0 && len(v.Instances) < max(1, least/2) {
		e.broke(ErrLoss, at, "%s shows %d instances of %s [%s] and never were there less than %d", v.Who, len(v.Instances), p, strings.Join(v.Instances, " "), least)
		return
	}
	if e.liedAbout(p.cluster) || truths[0].at > e.events[0].At-kept && e.begun(v.Who, at) {
		return
	}
	promise := ErrVanished
	if e.confinedElsewhere(p.cluster) {
		promise = ErrIsolation
	}
	for _, id := range always {
		if !slices.Contains(v.Instances, id) {
			e.broke(promise, at, "%s shows %s without %s, which was there all the time", v.Who, p, id)
		}
	}
}

// returns judges I2 of lists: within one process's or stream's life, an instance comes into a list no
// more often than it came into the truth, where the registry was not lied about. A list may miss that
// it was there for a moment; it may not show a moment twice. An agent's own cluster is not judged: an
// agent that let an instance go takes it back where the cluster's owner holds it.
func (e *episode) returns() {
	type member struct {
		who string
		of  place
		id  string
	}
	there, came, before := map[member]bool{}, map[member]int{}, map[member]int{}
	shown := map[string]bool{} // by who and of: whether a list was shown at all
	for _, v := range e.all() {
		if v.View == nil || strings.HasPrefix(v.View.Who, Agent+v.View.Cluster+"/") {
			continue
		}
		p := place{v.View.Cluster, v.View.Service}
		list, stood := v.View.Who+" "+p.String(), v.Episode != e.last.Episode
		if v.View.Unknown {
			shown[list] = false // what it shows when it knows is its first
			continue
		}
		first := v.View.Began || stood || !shown[list]
		shown[list] = true
		for _, id := range e.ever[p] {
			m := member{v.View.Who, p, id}
			was, is := there[m], slices.Contains(v.View.Instances, id)
			there[m] = is
			switch {
			case first && stood:
				came[m], before[m] = 0, e.times(p, id, e.events[0].At)
			case first:
				// It may be behind: what has come into the truth by now may come into it still.
				came[m], before[m] = 0, max(0, e.times(p, id, v.At)-1)
			case is && !was:
				came[m]++
				if came[m] > e.times(p, id, v.At)-before[m] && !e.liedAbout(p.cluster) && !slices.Contains(e.now(p, v.At), id) {
					e.broke(ErrBack, v.At, "%s shows %s of %s again, which was taken out", v.View.Who, id, p)
				}
			}
		}
	}
}

// times counts how often an instance came into the truth until at; that it stood there at the
// beginning is one of them.
func (e *episode) times(p place, id string, at time.Duration) int {
	n, was := 0, false
	for _, t := range e.before(p, at) {
		is := slices.Contains(t.have, id)
		if is && !was {
			n++
		}
		was = is
	}
	return n
}

// now gives what is true of a service at a time.
func (e *episode) now(p place, at time.Duration) []string {
	all := e.before(p, at)
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1].have
}

// kept is how old a change may be that a process had not written down when it was killed: what it
// begins anew with is as old.
const kept = 10 * time.Second

// begun reports whether an observer began anew in this episode, before at.
func (e *episode) begun(who string, at time.Duration) bool {
	return slices.ContainsFunc(e.events, func(v history.Event) bool {
		return v.View != nil && v.View.Who == who && v.View.Began && v.At <= at
	})
}

// mayBeUnknown reports whether an observer may not know a cluster: an agent that lost what it kept.
// A synchronizer keeps nothing, and knows nothing before it has read the store.
func (e *episode) mayBeUnknown(who string, at time.Duration) bool {
	return strings.HasPrefix(who, Synchronizer) || e.forgot(who, at)
}

// The kinds of observers, which begin their names.
const (
	Agent        = "agent "
	Synchronizer = "synchronizer "
	Feed         = "feed "
	Disk         = "disk "
	Store        = "store"
)

// liedAbout reports whether a fault of the episode is one of the cluster's own.
func (e *episode) liedAbout(cluster string) bool {
	return slices.ContainsFunc(e.faults, func(s *span) bool { return s.Cluster == cluster })
}

// confinedElsewhere reports whether there are faults, all of them in other clusters.
func (e *episode) confinedElsewhere(cluster string) bool {
	return len(e.faults) > 0 && !slices.ContainsFunc(e.faults, func(s *span) bool { return s.Cluster == "" || s.Cluster == cluster })
}

// convergence judges I1: what everybody shows when all is settled.
func (e *episode) convergence() {
	if len(e.truths) == 0 {
		e.nothing("nobody says what is true")
		return
	}
	if e.settled == 0 {
		e.broke(ErrConvergence, e.last.At, "it did not: %s", strings.Join(e.disagreements(e.last.At), "; "))
		return
	}
	for _, d := range e.disagreements(e.settled) {
		e.broke(ErrConvergence, e.settled, "%s", d)
	}
}

// disagreements says which lists are not the truth at a time.
func (e *episode) disagreements(at time.Duration) []string {
	type list struct {
		who string
		of  place
	}
	lists := map[list]*history.View{}
	var whos []string
	for _, v := range slices.Concat(e.stood, e.events) {
		if v.View == nil || v.At > at {
			continue
		}
		if !slices.Contains(whos, v.View.Who) {
			whos = append(whos, v.View.Who)
		}
		lists[list{v.View.Who, place{v.View.Cluster, v.View.Service}}] = v.View
	}
	var out []string
	for _, kind := range []string{Agent, Synchronizer} {
		if !slices.ContainsFunc(whos, func(who string) bool { return strings.HasPrefix(who, kind) }) {
			e.nothing("no %sshowed a list", kind)
		}
	}
	for p, all := range e.truths {
		truths := e.before(p, at)
		if len(truths) == 0 {
			truths = all[:1]
		}
		have := slices.Sorted(slices.Values(truths[len(truths)-1].have))
		for _, who := range whos {
			v := lists[list{who, p}]
			switch {
			case v == nil:
				out = append(out, who+" never showed "+p.String())
			case !slices.Equal(slices.Sorted(slices.Values(v.Instances)), have):
				out = append(out, who+" shows "+p.String()+" as ["+strings.Join(v.Instances, " ")+"], and there are ["+strings.Join(have, " ")+"]")
			}
		}
	}
	slices.Sort(out)
	return out
}
