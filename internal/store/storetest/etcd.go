// Package storetest is an etcd in memory, with a network that a test breaks as it likes: the
// store's own code runs over it inside a bubble of testing/synctest, where thousands of hours
// pass in minutes and one seed gives one schedule.
//
// It is a model, not a server: one history of revisions with leases, compaction and watches, by
// the rules that etcd documents, and nothing on disk. It is not linked into any product binary.
//
// Goroutines: Etcd.Run expires leases until its context ends; each watch has one until its own
// does; a request that its caller gave up goes on in one until it arrives or the link is closed.
package storetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// expireEvery is how often etcd looks for leases that have expired.
const expireEvery = 500 * time.Millisecond

// pageKeys bounds the keys of one answer to a range that states a limit, so that a list of few
// keys takes several pages, between which something may happen.
const pageKeys = 7

// Key is one key at one revision.
type Key = mvccpb.KeyValue

// Change is what a commit did to one key.
type Change struct {
	Was, Is *Key // nil where there was, or is, none
}

// Commit is one revision of the store as it comes to be.
type Commit struct {
	Revision int64
	// By is the name of the link over which it was asked for; empty for a lease that expired and
	// for what the test itself did.
	By      string
	Changes []Change
	// Owned are the keys before the commit: get looks one up.
	get func(key string) *Key
}

// Before gives a key as it was before the commit, nil where it was not there.
func (c *Commit) Before(key string) *Key { return c.get(key) }

// Etcd is the store. All methods are safe for concurrent use.
type Etcd struct {
	seed uint64

	mu      sync.Mutex
	state   state
	leaseID int64
	down    bool
	up      chan struct{} // closed while it answers
	watches map[*watch]struct{}
	// observe is told of every commit, under mu; reset that the store is another one.
	observe func(*Commit)
	reset   func()
}

// state is what a backup would hold.
type state struct {
	rev, compacted int64
	keys           []string // in order, all that ever were since the last compaction
	versions       map[string][]*Key
	events         []event
	leases         map[int64]*lease
}

// event is one change of a revision. is nil where the key was deleted.
type event struct {
	rev int64
	key *Key // with the revision of the change
	del bool
}

type lease struct {
	id      int64
	ttl     time.Duration
	expires time.Time
	by      string
	keys    map[string]struct{}
}

// New returns an empty store. observe is told of every commit before anybody sees it, and reset
// whenever the store was wiped or restored; both under the store's lock, and either may be nil.
func New(seed uint64, observe func(*Commit), reset func()) *Etcd {
	e := &Etcd{seed: seed, state: empty(), up: make(chan struct{}), watches: map[*watch]struct{}{}, observe: observe, reset: reset}
	close(e.up)
	return e
}

func empty() state {
	return state{rev: 1, versions: map[string][]*Key{}, leases: map[int64]*lease{}}
}

// Run expires leases until ctx ends.
func (e *Etcd) Run(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.expire()
		}
	}
}

func (e *Etcd) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(e.state.leases)) {
		if l := e.state.leases[id]; time.Now().After(l.expires) {
			e.revoke(l, "")
		}
	}
}

// revoke ends a lease, and with it its keys, in one revision. Caller holds mu.
func (e *Etcd) revoke(l *lease, by string) {
	delete(e.state.leases, l.id)
	t := e.begin(by)
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		t.remove(key)
	}
	t.commit()
}

// Revision gives the store's revision.
func (e *Etcd) Revision() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state.rev
}

// Scan gives the keys below a prefix, in order.
func (e *Etcd) Scan(prefix string) []*Key {
	out, _ := e.ScanAt(prefix, e.Revision())
	return out
}

// ScanAt gives the keys below a prefix as they were at a revision, and whether that is known: it is
// neither compacted away nor still to come.
func (e *Etcd) ScanAt(prefix string, rev int64) (out []*Key, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if rev < e.state.compacted || rev > e.state.rev {
		return nil, false
	}
	at, _ := slices.BinarySearch(e.state.keys, prefix)
	for _, k := range e.state.keys[at:] {
		if !strings.HasPrefix(k, prefix) {
			break
		}
		if kv := e.state.at(k, rev); kv != nil {
			out = append(out, kv)
		}
	}
	return out, true
}

// Compact forgets all but the last so many revisions.
func (e *Etcd) Compact(keep int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.state
	to := s.rev - keep
	if to <= s.compacted {
		return
	}
	s.compacted = to
	at, _ := slices.BinarySearchFunc(s.events, to, func(ev event, rev int64) int { return cmp.Compare(ev.rev, rev) })
	s.events = slices.Clone(s.events[at:])
	for key, vs := range s.versions {
		n := 0
		for n+1 < len(vs) && vs[n+1].ModRevision <= to {
			n++
		}
		if vs[n].ModRevision <= to && vs[n].Version == 0 {
			n++
		}
		if n == len(vs) {
			delete(s.versions, key)
			at, _ := slices.BinarySearch(s.keys, key)
			s.keys = slices.Delete(s.keys, at, at+1)
			continue
		}
		s.versions[key] = slices.Clone(vs[n:])
	}
	e.wake()
}

// Revoke ends all leases that were granted over a link, as an operator might.
func (e *Etcd) Revoke(link string) (some bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(e.state.leases)) {
		if l := e.state.leases[id]; l.by == link {
			e.revoke(l, "")
			some = true
		}
	}
	return some
}

// Grantee gives the name of the link over which a lease was granted; empty where there is none.
func (e *Etcd) Grantee(lease int64) string {
	if l := e.state.leases[lease]; l != nil {
		return l.by
	}
	return ""
}

// Put writes a key, as somebody who is none of ours might.
func (e *Etcd) Put(key, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.begin("")
	t.put(key, []byte(value), 0)
	t.commit()
}

// Delete removes a key, as somebody who is none of ours might.
func (e *Etcd) Delete(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.begin("")
	t.remove(key)
	t.commit()
}

// SetDown makes the store answer nobody, as without a quorum, or answer again: then every lease
// begins anew, as with a new leader, and every watch is broken.
func (e *Etcd) SetDown(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down == down {
		return
	}
	e.down = down
	if down {
		e.up = make(chan struct{})
		return
	}
	close(e.up)
	for _, l := range e.state.leases {
		l.expires = time.Now().Add(l.ttl)
	}
	e.breakAll()
}

// Copy is a backup.
type Copy struct{ state state }

// Revision gives the revision that a backup is of.
func (c *Copy) Revision() int64 { return c.state.rev }

// Copy takes a backup.
func (e *Etcd) Copy() *Copy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &Copy{e.state.clone()}
}

func (s *state) clone() state {
	c := *s
	c.keys, c.events = slices.Clone(s.keys), slices.Clone(s.events)
	c.versions, c.leases = make(map[string][]*Key, len(s.versions)), make(map[int64]*lease, len(s.leases))
	for k, vs := range s.versions {
		c.versions[k] = slices.Clone(vs)
	}
	for id, l := range s.leases {
		again := *l
		again.keys = maps.Clone(l.keys)
		c.leases[id] = &again
	}
	return c
}

// Wipe empties the store; its revisions begin anew.
func (e *Etcd) Wipe() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = empty()
	e.another()
}

// Restore puts a backup in the place of what there is. Its leases begin anew.
func (e *Etcd) Restore(c *Copy) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = c.state.clone()
	for _, l := range e.state.leases {
		l.expires = time.Now().Add(l.ttl)
	}
	e.another()
}

func (e *Etcd) another() {
	if e.reset != nil {
		e.reset()
	}
	e.breakAll()
}
