package intake

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// The world of a simulation has four services of sixteen instances at most. A set of instances is a
// word of 64 bits, so that the oracle can be written as sentences about sets.
type set uint64

const (
	simServices = 4
	simEach     = 16
	everything  = ^set(0)
)

func (s set) has(n int) bool { return s&(1<<n) != 0 }
func (s set) size() int      { return bits.OnesCount64(uint64(s)) }

// ofService is all that a service may have.
func ofService(n int) set { return set(1<<simEach-1) << (n * simEach) }

func (s set) each(f func(n int)) {
	for ; s != 0; s &= s - 1 {
		f(bits.TrailingZeros64(uint64(s)))
	}
}

func (s set) String() string {
	words := []string{}
	s.each(func(n int) { words = append(words, simIDs[n].Service+simIDs[n].Instance) })
	return fmt.Sprint(words)
}

// simIDs are the identities, simPlaces where they stand.
var simIDs, simPlaces = func() (ids [64]catalog.ID, places map[catalog.ID]int) {
	places = map[catalog.ID]int{}
	for n := range ids {
		ids[n] = catalog.ID{
			Cluster: "east", Name: catalog.Name{Namespace: catalog.DefaultNamespace, Service: string(rune('a' + n/simEach))},
			Instance: fmt.Sprintf("%02d", n%simEach),
		}
		places[ids[n]] = n
	}
	return ids, places
}()

// manner is how a registry says what it says.
type manner int

const (
	// polled tells of absence only, and may lie (Consul, DNS).
	polled manner = iota
	// watched tells of each removal, and may lie when it is listed again (Kubernetes, mDNS).
	watched
	// edited says all at once and means it; where it cannot be read it says so (file).
	edited
)

// scripted is a registry: what is true there, and the resolver that says what a script tells it to.
type scripted struct {
	name  string
	kind  manner
	truth set
	// version is what a record says beside its identity: its port and its health.
	version [64]int
	// broken are records that cannot be used at present.
	broken set
	// unread says that the next update of the Run under way is its first.
	unread bool
	out    resolvers.Sink
	ends   chan error
}

var _ resolvers.Resolver = (*scripted)(nil)

func (s *scripted) Run(ctx context.Context, out resolvers.Sink) error {
	s.out, s.unread = out, true
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.ends:
		return err
	}
}

// op is one update and what it means.
type op struct {
	of     int // the registry's number
	update catalog.Update
	states set // usable records
	covers set // what it speaks of
	broken set // stated in records that cannot be used
}

// says makes the update of a read of some services that finds those instances.
func (s *scripted) says(of int, found, covers set, explicit bool, reset string) op {
	full := covers == everything
	if s.unread {
		full, covers = true, everything
		explicit = explicit && s.kind == edited
	}
	o := op{of: of, covers: covers, broken: found & s.broken & covers, states: found &^ s.broken & covers}
	o.update = catalog.Update{Full: full, Explicit: explicit, Reset: reset}
	for service := range simServices {
		if covers&ofService(service) != 0 {
			o.update.Snapshots = append(o.update.Snapshots, s.snapshot(service, found))
		}
	}
	return o
}

func (s *scripted) snapshot(service int, found set) catalog.Snapshot {
	name := catalog.Name{Service: string(rune('a' + service))}
	snap := catalog.Snapshot{Source: name.Service, Services: []catalog.Name{name}}
	(found & ofService(service)).each(func(n int) {
		in := &catalog.Instance{
			ID: catalog.ID{Name: name, Instance: simIDs[n].Instance}, Address: "10.0.0.1",
			Port: 1000 + s.version[n], Health: catalog.Health(s.version[n] % 3), Weight: 1,
		}
		if s.broken.has(n) {
			in.Port = 70_000
		}
		snap.Instances = append(snap.Instances, in)
	})
	return snap
}

// picked gives n of a set at random, all of it where it has no more.
func (s *simulation) picked(from set, n int) set {
	var all []int
	from.each(func(n int) { all = append(all, n) })
	s.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var out set
	for _, n := range slices.All(all[:min(n, len(all))]) {
		out |= 1 << n
	}
	return out
}
