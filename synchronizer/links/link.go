package links

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// link is one link as a resolver: it publishes what its reporter contributes. Its fields are
// guarded by the Cluster's mu.
type link struct {
	c       *Cluster
	name    string
	created time.Time
	stored  bool // the store has it, or had

	named   map[*Contributor]standing // who hears it now, and how each stands
	unnamed time.Time                 // since when nobody does; zero where somebody does

	reporter *Contributor // nil: nobody
	last     string       // the node that reported it last
	term     uint64
	asked    time.Time // when the reporter was granted the link, or last sent a part of its first list
	listed   bool      // the reporter has sent the first contribution of its term
	refused  time.Time // when a list was too large; zero where none was since the last that was taken
	read     time.Time // when the registry was read last, as far as was confirmed

	sources map[string]source // what stands; nil before the first contribution
	bytes   int               // of it
	at      string            // the registry's revision of it

	out       resolvers.Sink // of the Run under way, nil without one
	published bool           // out was given a full list
	why       string         // the failure that out was told last; empty where it has heard better since
}

// standing is how one contributor stands with one link.
type standing struct {
	at       time.Time // when it said so
	complete bool
	fresh    bool      // its registry was asked within candidateAge of at
	read     time.Time // when that was
	failure  string
}

// source is what one source of the registry lists. A large one comes in several parts.
type source struct {
	parts []catalog.Snapshot
	bytes int
}

var _ resolvers.Resolver = (*link)(nil)

// Run publishes what the link lists, as it comes, until ctx is done.
func (k *link) Run(ctx context.Context, out resolvers.Sink) error {
	k.c.mu.Lock()
	k.out, k.published, k.why = out, false, ""
	if now := time.Now(); k.listed && k.reporter != nil && k.candidate(k.reporter, now) {
		k.confirm()
	} else {
		k.c.judge(k, now)
	}
	k.c.mu.Unlock()
	<-ctx.Done()
	k.c.mu.Lock()
	k.out = nil
	k.c.mu.Unlock()
	return ctx.Err()
}

// publish takes a complete contribution of the reporter. sizes has the bytes of each source.
func (k *link) publish(now time.Time, u catalog.Update, sizes map[string]int) {
	if u.Full || k.sources == nil {
		k.sources, k.bytes = map[string]source{}, 0
	}
	read := make(map[string]source, len(sizes))
	for _, s := range u.Snapshots {
		src := read[s.Source]
		src.parts = append(src.parts, s)
		read[s.Source] = src
	}
	for name, src := range read {
		src.bytes = sizes[name]
		k.bytes += src.bytes - k.sources[name].bytes
		k.sources[name] = src
		if !slices.ContainsFunc(src.parts, lists) {
			k.bytes -= src.bytes
			delete(k.sources, name) // a source that lists nothing need not be told again
		}
	}
	k.listed, k.at, k.read, k.refused = true, u.Revision, now, time.Time{}
	switch {
	case k.out == nil:
	case !k.published && !u.Full:
		k.confirm()
	default:
		k.published, k.why = true, ""
		k.out.Publish(u)
	}
}

// sizeAfter gives the bytes of what would stand after u.
func (k *link) sizeAfter(u *update) int {
	if u.full {
		return u.bytes
	}
	size := k.bytes + u.bytes
	for name := range u.sizes {
		size -= k.sources[name].bytes
	}
	return size
}

func lists(s catalog.Snapshot) bool {
	return len(s.Services) > 0 || len(s.Instances) > 0 || len(s.SetAside) > 0
}

// heard takes the word of the reporter on how it stands. It confirms the link where its registry
// has answered since the last time: to say again how long ago that was is no confirmation.
func (k *link) heard(st standing) {
	if st.read.Sub(k.read) < apart {
		return
	}
	k.read = st.read
	k.confirm()
}

// confirm says that the registry was asked just now and what was published holds. To a Run that
// was told nothing yet it publishes all of it.
func (k *link) confirm() {
	if k.out == nil {
		return
	}
	k.why = ""
	if k.published {
		k.out.Confirm()
		return
	}
	k.published = true
	u := catalog.Update{Full: true, Revision: k.at}
	for _, name := range slices.Sorted(maps.Keys(k.sources)) {
		u.Snapshots = append(u.Snapshots, k.sources[name].parts...)
	}
	k.out.Publish(u)
}

// fail tells what is wrong, once.
func (k *link) fail(why string) {
	if k.out == nil || k.why == why {
		return
	}
	k.why = why
	k.out.Failed(errors.New(why))
}
