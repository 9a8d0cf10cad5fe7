// Package intake runs the registries of one cluster and makes one list per service of what
// they say: it checks and maps every record, lets the guard judge every removal, and merges
// the registries.
//
// Where several registries of a cluster list the same instance (the same namespace, service and
// instance id, as mapped), it is one instance: the registry configured first is believed, those
// added while it runs come after all configured ones, by name, and within one registry the
// source that is first by name. The other records are shadowed and counted; they count again as
// soon as the believed one is gone.
//
// Strategies that registries state for a service are told in the registry's status. Of several in
// one registry, that of the source that is first by name counts, and the others are set aside.
//
// It is not a store and keeps nothing across restarts: what was believed before it is given by Adopt,
// and Believed gives it to whoever keeps it. It does not know clusters other than its own, nor who may
// call what. Run starts one goroutine per registry, joins them all before
// it returns, and does everything else in its own.
package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/resolvers"
)

// Registry is one registry of the cluster and how its names become ours.
type Registry struct {
	// Name is unique in the cluster; people see it, and metrics.
	Name     string
	Resolver resolvers.Resolver
	// Namespace is where services live whose record names none; default catalog.DefaultNamespace.
	Namespace string
	// Namespaces gives our namespace for the registry's. One that is not among them is kept.
	Namespaces map[string]string
	// Include and Exclude are patterns (path.Match) over the name of a service. No Include means
	// all; Exclude is stronger. A service left out does not exist for us.
	Include, Exclude []string
}

// Config names a cluster and its registries. Where two of them list the same instance, the
// one that comes first here is believed.
type Config struct {
	Cluster    string
	Registries []Registry
	// Open says that registries are added while it runs: none to begin with is no mistake.
	Open bool
	// Rounds is how many more times than once each registry that is added must have been read before what
	// a registry listed that nobody reads here any more is taken back: who reads for it may be deaf at
	// first. Where none is added, it waits for Guard.Hold instead. 0: once is enough.
	Rounds int
	Guard  guard.Config
}

// Deps is what an Intake needs of its process. Several share one Metrics.
type Deps struct {
	Log     *slog.Logger
	Metrics *Metrics
	// Verdict, where it is not nil, is asked while removals are held: it gives what who decides says
	// of them at that time, nil where nobody can be asked (guard.Registry.Review). It must not block.
	Verdict func(now time.Time) func(catalog.ID) guard.Word
}

// Intake runs the registries of one cluster. Its methods are safe for concurrent use.
type Intake struct {
	cluster    string
	open       bool
	rounds     int
	guardRules guard.Config
	log        *slog.Logger
	metrics    *Metrics
	verdict    func(time.Time) func(catalog.ID) guard.Word
	releases   chan *release
	// wake holds a token while an inbox may hold something, or registries came or went.
	wake chan struct{}

	// mu guards which registries there are, and what is in them: the loop writes, as Add and Retire
	// do which there shall be; Holds and Status read.
	mu         sync.Mutex
	registries []*registry // in the order in which they are believed
	adoptions  []*adoption // that wait
	// confirmed is when all registries had been confirmed, nil before that.
	confirmed atomic.Pointer[time.Time]
	held      atomic.Int64
	moves     atomic.Uint64

	// The rest belongs to the loop.

	// sent are the lists as they were sent, in identity order; they are handed out, so they are
	// never written into.
	sent    map[catalog.Name][]*catalog.Instance
	told    *Change // the last one, its Services apart; nil before the first
	settled settled
	// asked are the releases to be done in the next pass.
	asked []*release
	// adopted are the Baselines that were taken in and not handed on yet.
	adopted []*adoption
}

// Change is what is new since the Change before. Its receiver must not write into it.
type Change struct {
	// Services are those whose list changed.
	Services map[catalog.Name]List
	// Complete says that there is a registry and that every one was read completely at least
	// once. Before that, a service that is not known may exist. It can become false again, by Add.
	Complete bool
	// Registries is always the whole status, in the order in which the registries are believed.
	Registries []catalog.RegistryStatus
}

// List is all of one service in the cluster.
type List struct {
	// Instances are in identity order. None, where Gone is false, is confirmed empty.
	Instances []*catalog.Instance
	// Gone says that no registry knows the service any more.
	Gone bool
}

// New checks the configuration and returns an Intake. It starts nothing.
func New(cfg Config, deps Deps) (*Intake, error) {
	i := &Intake{
		cluster:    cfg.Cluster,
		open:       cfg.Open,
		rounds:     cfg.Rounds,
		guardRules: cfg.Guard,
		log:        deps.Log.With("cluster", cfg.Cluster),
		metrics:    deps.Metrics,
		verdict:    deps.Verdict,
		releases:   make(chan *release),
		wake:       make(chan struct{}, 1),
		sent:       map[catalog.Name][]*catalog.Instance{},
	}
	errs := []error{catalog.CheckClusterName(cfg.Cluster), cfg.Guard.Check()}
	if len(cfg.Registries) == 0 && !cfg.Open {
		errs = append(errs, errors.New("no registry"))
	}
	names := map[string]bool{}
	for at, r := range cfg.Registries {
		errs = append(errs, r.check(names))
		i.registries = append(i.registries, newRegistry(i, r, at))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("intake: cluster %q: %w", cfg.Cluster, err)
	}
	return i, nil
}

// check says what is wrong with r, or nil, and adds its name to those taken.
func (r Registry) check(taken map[string]bool) error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case r.Name == "":
		add("name is empty")
	case taken[r.Name]:
		add("name is taken by another registry of the cluster")
	}
	taken[r.Name] = true
	if r.Resolver == nil {
		add("no resolver")
	}
	namespaces := map[string]string{"namespace": r.namespace()}
	for from, to := range r.Namespaces {
		namespaces[fmt.Sprintf("namespaces[%s]", from)] = to
	}
	for key, ns := range namespaces {
		if err := (catalog.Name{Namespace: ns, Service: "any"}).Check(); err != nil {
			add("%s: %w", key, err)
		}
	}
	for key, patterns := range map[string][]string{"include": r.Include, "exclude": r.Exclude} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				add("%s: pattern %q: %w", key, p, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("registry %q: %w", r.Name, err)
	}
	return nil
}

// Run reads the registries until ctx is done and then returns ctx.Err(). It is called once.
// Whenever something is new it calls changed, always from its own goroutine; what comes in
// while changed works is coalesced, so changed may take its time. The first Change comes at
// once and says that nothing was read yet.
//
// A resolver that returns an error is run again after a pause, whatever the others do.
func (i *Intake) Run(ctx context.Context, changed func(Change)) error {
	var running sync.WaitGroup
	defer running.Wait()
	expiry := time.NewTimer(0)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-i.wake:
		case <-expiry.C:
		case r := <-i.releases:
			i.asked = append(i.asked, r)
		}
		now := time.Now()
		i.steer(ctx, &running)
		if ch, news := i.pass(now); news {
			changed(ch)
			i.metrics.changes.WithLabelValues(i.cluster).Inc()
		}
		i.settle()
		i.answer()
		if next, ok := i.nextExpiry(); ok {
			expiry.Reset(next.Sub(now))
		} else {
			expiry.Stop()
		}
	}
}

// Confirmed says when every registry had last been confirmed (the time of the one that was so
// longest ago), and whether all of them ever were; without any registry it is false. It moves
// only when all that was read until then has been handed to changed: it tells of work done, not
// of an open connection.
func (i *Intake) Confirmed() (time.Time, bool) {
	if at := i.confirmed.Load(); at != nil {
		return *at, true
	}
	return time.Time{}, false
}
