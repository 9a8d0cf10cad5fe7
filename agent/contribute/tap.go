package contribute

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/inbox"
	"github.com/farcall/farcall/resolvers/intake"
)

// tap is a resolver that hands on what another one finds, unchanged, and remembers what stands:
// whoever is granted the link can be given all of it at any time. What it remembers are the
// snapshots as they were published, shared and not copied.
type tap struct {
	registry intake.Registry
	source   func() string
	changed  func() // called after a change of what standing says, its age apart

	// mu guards all below. It is held while an update goes to the listeners, whose Publish does not
	// block, so that none comes twice or is missed beside what begin gave.
	mu        sync.Mutex
	name      string // of the link; empty while it is not known
	complete  bool   // a full update came
	heard     time.Time
	failure   error
	revision  string
	sources   map[string][]catalog.Snapshot
	listeners map[*inbox.Inbox]struct{}
}

var _ resolvers.Resolver = (*tap)(nil)

func newTap(l LinkSource, changed func()) *tap {
	return &tap{
		registry: l.Registry, source: l.Name, changed: changed,
		sources: map[string][]catalog.Snapshot{}, listeners: map[*inbox.Inbox]struct{}{},
	}
}

// Run implements resolvers.Resolver.
func (t *tap) Run(ctx context.Context, out resolvers.Sink) error {
	err := t.registry.Resolver.Run(ctx, &tapped{tap: t, out: out})
	if ctx.Err() == nil {
		if err == nil {
			err = errors.New("the resolver ended without a reason")
		}
		t.failed(err)
	}
	return err
}

// tapped is the sink of one Run.
type tapped struct {
	tap *tap
	out resolvers.Sink
}

var _ resolvers.Sink = (*tapped)(nil)

func (t *tapped) Publish(u catalog.Update) {
	t.tap.publish(u)
	t.out.Publish(u)
}

func (t *tapped) Confirm() {
	t.tap.confirm()
	t.out.Confirm()
}

func (t *tapped) Failed(err error) {
	t.tap.failed(err)
	t.out.Failed(err)
}

func (t *tap) publish(u catalog.Update) {
	now := time.Now()
	t.mu.Lock()
	news := t.failure != nil || u.Full && !t.complete
	t.heard, t.failure, t.revision = now, nil, u.Revision
	t.complete = t.complete || u.Full
	t.keep(u)
	for l := range t.listeners {
		l.Publish(u)
	}
	t.mu.Unlock()
	if news {
		t.changed()
	}
}

// keep notes what stands after an update. Caller holds mu.
func (t *tap) keep(u catalog.Update) {
	if u.Full {
		t.sources = make(map[string][]catalog.Snapshot, len(u.Snapshots))
	}
	seen := make(map[string]struct{}, len(u.Snapshots))
	for _, s := range u.Snapshots {
		if _, ok := seen[s.Source]; !ok {
			seen[s.Source] = struct{}{}
			delete(t.sources, s.Source)
		}
		// A source with nothing in it is the same as none: registries that make sources as services
		// come and go leave nothing behind.
		if len(s.Services)+len(s.Instances)+len(s.SetAside) > 0 {
			t.sources[s.Source] = append(t.sources[s.Source], s)
		}
	}
}

func (t *tap) confirm() {
	now := time.Now()
	t.mu.Lock()
	news := t.failure != nil
	t.heard, t.failure = now, nil
	t.mu.Unlock()
	if news {
		t.changed()
	}
}

func (t *tap) failed(err error) {
	t.mu.Lock()
	news := t.failure == nil || t.failure.Error() != err.Error()
	t.failure = err
	t.mu.Unlock()
	if news {
		t.changed()
	}
}

// begin empties l, gives all that stands as one full update, and has l told of everything that
// comes after it. It is false where the registry was not read completely yet: l is then told
// when something came, and begin is to be asked again.
func (t *tap) begin(l *inbox.Inbox) (u catalog.Update, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.listeners[l] = struct{}{}
	l.Take()
	if !t.complete {
		return catalog.Update{}, false
	}
	u = catalog.Update{Full: true, Revision: t.revision, Snapshots: make([]catalog.Snapshot, 0, len(t.sources))}
	for _, snapshots := range t.sources {
		u.Snapshots = append(u.Snapshots, snapshots...)
	}
	return u, true
}

// leave ends what begin began.
func (t *tap) leave(l *inbox.Inbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.listeners, l)
}

// lists reports whether one of these instances stands.
func (t *tap) lists(instances []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, snapshots := range t.sources {
		for _, s := range snapshots {
			for _, in := range s.Instances {
				if slices.Contains(instances, in.Instance) {
					return true
				}
			}
		}
	}
	return false
}

func (t *tap) named() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.name
}

func (t *tap) rename(name string) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed = t.name != name
	t.name = name
	return changed
}

// standing says how the agent stands with the link; nil where its name is not known.
func (t *tap) standing(now time.Time) *feedv1.Link {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.name == "" {
		return nil
	}
	l := &feedv1.Link{Name: t.name, Complete: t.complete}
	if !t.heard.IsZero() {
		l.Age = durationpb.New(max(now.Sub(t.heard), 0))
	}
	if t.failure != nil {
		l.Error = printable(t.failure.Error())
	}
	return l
}
