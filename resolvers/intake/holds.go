package intake

import (
	"context"
	"fmt"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// Hold is a removal that is held back, and the registry that no longer lists the instance.
type Hold struct {
	Registry string
	guard.Hold
}

// Filter chooses holds: by registry, namespace, service and instance. What is empty chooses all.
type Filter struct {
	Registry string
	catalog.Name
	Instance string
}

// Match reports whether a hold of a registry is chosen.
func (f Filter) Match(registry string, id catalog.ID) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(f.Registry, registry) && is(f.Namespace, id.Namespace) && is(f.Service, id.Service) && is(f.Instance, id.Instance)
}

// Held is the number of removals that are held back.
func (i *Intake) Held() int { return int(i.held.Load()) }

// Holds gives the removals that are held back, by registry in the order in which they are
// believed, then by identity.
func (i *Intake) Holds() []Hold {
	i.mu.Lock()
	defer i.mu.Unlock()
	var all []Hold
	for _, r := range i.registries {
		for _, h := range r.guard.Holds() {
			all = append(all, Hold{Registry: r.name, Hold: h})
		}
	}
	return all
}

// release is what Release asks of the loop.
type release struct {
	filter   Filter
	released []Hold
	done     chan struct{} // closed when what changed by it was handed on
}

// Release ends the holds that f chooses, and returns them when what changed by that was handed on
// by Run; none is no error. Where ctx ends before, it returns why, and it is not known whether they
// ended.
func (i *Intake) Release(ctx context.Context, f Filter) ([]Hold, error) {
	r := &release{filter: f, done: make(chan struct{})}
	select {
	case i.releases <- r:
	case <-ctx.Done():
		return nil, fmt.Errorf("intake: release holds of %s: %w", i.cluster, ctx.Err())
	}
	select {
	case <-r.done:
		return r.released, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("intake: release holds of %s: %w", i.cluster, ctx.Err())
	}
}

// Review has the verdict asked again soon, where anything is held. It is called when the verdict may
// be another; now and then it is asked without.
func (i *Intake) Review() {
	if i.Held() > 0 {
		i.signal()
	}
}

// release does in one registry what was asked. The caller holds i.mu.
func (i *Intake) release(r *registry, mark func(guard.Changes)) {
	for _, asked := range i.asked {
		released, changes := r.guard.Release(func(id catalog.ID) bool { return asked.filter.Match(r.name, id) })
		mark(changes)
		for _, h := range released {
			asked.released = append(asked.released, Hold{Registry: r.name, Hold: h})
		}
	}
}

// answer tells those who asked for a release, or gave a Baseline, that it is done and handed on.
func (i *Intake) answer() {
	for _, a := range i.adopted {
		close(a.done)
	}
	i.adopted = nil
	for _, r := range i.asked {
		close(r.done)
	}
	i.asked = nil
}
