// Package guard decides which removals are believed. It keeps what one registry said last and
// what of it is believed: additions and changes at once, removals only where they are plausible.
// Deleted, confirmed empty and unknown stay three different things.
//
// It is not a cache of the registry: it asks nobody, reads no clock (time comes in as an
// argument) and runs no goroutines. It does not merge registries, and it does not know which
// records are usable: its caller does.
//
// # The rule
//
// A removal is an instance that was believed and that no source of the registry states any
// more.
//
//   - Explicit removals (catalog.Update.Explicit) go at once, always, and count towards
//     nothing.
//   - Where an Update carries a Reset, every other removal in it is held.
//   - Where the registry stated more than Floor instances before an Update and states none
//     after it, every other removal in it is held.
//   - Else removals go at once while fewer than Floor have gone so within the last Window, in
//     the order of their identities; what exceeds that is held.
//
// A held instance stays in the list as it was last stated. Its hold ends when a source states
// the instance again, when an explicit Update of a source that stated it leaves it out, when a
// person releases it (Release), when it is confirmed (Confirm), or after Hold.
//
// # Confirmation
//
// A registry that was emptied by accident stays empty, read after read: repetition only shows that
// a list was not torn, never that it was meant. So it shortens only holds of which the rest of the
// registry speaks for itself, and those only to half. A hold ends by confirmation where
//
//   - at least three further reads in a row, the first and the last of them at least half of Hold
//     apart, left out all that is held, while nothing of it returned and nothing more was lost. A
//     read that failed begins the row anew;
//   - all holds of the registry are of a Burst. One Catalogue or Reset, or a Reset since, and
//     nothing is confirmed: such a registry has yet to vouch for itself, by giving back what it lost;
//   - the registry states at least as many instances as are held;
//   - the registry states at least one other instance of the same service. The last of a service
//     waits for a person, or for its time.
//
// # Two readers
//
// Where somebody else reads the same registry and is the one to decide (the synchronizer, beside
// which an agent reads for itself), Review asks what became of an instance there: one that is
// listed there stays held, beyond its time and whatever is confirmed here; one that was listed there
// during its hold and is no more goes at once. Where nobody answers, all of the above holds.
//
// # Beginning anew
//
// A process that begins has read nothing yet, and yet much was believed before it. Adopt takes that
// over: the first Full read is judged against it, and what was held stays so for the time that was left.
package guard

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// Config is the rule's numbers. Zero means the default; what is below it is refused.
type Config struct {
	// Hold is how long a suspicious removal is held; default 60 s. Longer survives longer
	// outages of a registry, and sends calls to dead instances for as long.
	Hold time.Duration
	// Floor is how many removals that are not explicit go at once in any Window; default 5.
	Floor int
	// Window is what Floor is counted over; default 10 s.
	Window time.Duration
}

// Check says which number cannot be used, or nil.
func (c Config) Check() error {
	switch {
	case c.Hold < 0:
		return fmt.Errorf("hold %v is below 0", c.Hold)
	case c.Floor < 0:
		return fmt.Errorf("floor %d is below 0", c.Floor)
	case c.Window < 0:
		return fmt.Errorf("window %v is below 0", c.Window)
	}
	return nil
}

// DefaultHold is Config.Hold where nobody stated it.
const DefaultHold = 60 * time.Second

func (c Config) withDefaults() Config {
	c.Hold = cmp.Or(c.Hold, DefaultHold)
	c.Floor = cmp.Or(c.Floor, 5)
	c.Window = cmp.Or(c.Window, 10*time.Second)
	return c
}

// Registry is what one registry said, and what of it is believed. It is not safe for
// concurrent use.
type Registry struct {
	cfg      Config
	sources  map[string]*source
	services map[catalog.Name]*service

	// passed are the times of the removals that went at once within the last Window.
	passed []time.Time
	held   map[catalog.ID]*hold
	// heldBy finds the holds that an explicit Update of a source ends.
	heldBy map[string]map[catalog.ID]*hold
	// queue has the holds by their ends; those that ended before, or were prolonged since, are
	// skipped.
	queue agenda
	row   row

	stated   int // instances that some source states
	believed int // instances in lists: stated or held
	shadowed int // statements that another source's statement of the same instance hides
	complete bool
	removals Removals
}

// source is what one source stated last.
type source struct {
	services  map[catalog.Name]struct{}
	instances map[catalog.ID]*catalog.Instance
}

// service is what is known of one name.
type service struct {
	namedBy int // sources that state the name or an instance of it
	members map[catalog.ID]*member
}

// member is one believed instance: stated by at least one source, or held.
type member struct {
	believed *catalog.Instance
	stated   []statement // ordered by source: the first is believed
	hold     *hold
}

type statement struct {
	source   string
	instance *catalog.Instance
}

// New returns a guard that was told nothing yet. It expects a Config that passed Check.
func New(cfg Config) *Registry {
	return &Registry{
		cfg:      cfg.withDefaults(),
		sources:  map[string]*source{},
		services: map[catalog.Name]*service{},
		held:     map[catalog.ID]*hold{},
		heldBy:   map[string]map[catalog.ID]*hold{},
	}
}

// Changes are the services whose believed list changed, and of each the instances (by
// catalog.ID.Instance, in no order, none twice) that were added, changed or removed. A service
// with none of these became known or unknown.
type Changes map[catalog.Name][]string

// Believed gives what is believed of an instance, or nil. It costs the same whatever the
// registry holds.
func (r *Registry) Believed(id catalog.ID) *catalog.Instance {
	if s, ok := r.services[id.Name]; ok {
		if m, ok := s.members[id]; ok {
			return m.believed
		}
	}
	return nil
}

// Size gives the number of instances believed of a service, and whether the registry knows the
// service: known and empty is confirmed empty, unknown is not. It costs nothing.
func (r *Registry) Size(n catalog.Name) (instances int, known bool) {
	s, ok := r.services[n]
	if !ok {
		return 0, false
	}
	return len(s.members), true
}

// List gives the believed instances of a service in identity order, and whether the registry
// knows the service, as Size does. It makes a new list each time.
func (r *Registry) List(n catalog.Name) (instances []*catalog.Instance, known bool) {
	s, ok := r.services[n]
	if !ok {
		return nil, false
	}
	list := make([]*catalog.Instance, 0, len(s.members))
	for _, m := range s.members {
		list = append(list, m.believed)
	}
	catalog.SortInstances(list)
	return list, true
}

// Names gives the services that the registry knows, in order.
func (r *Registry) Names() []catalog.Name {
	return slices.SortedFunc(maps.Keys(r.services), catalog.Name.Compare)
}

// Complete reports whether the registry was ever read completely. Before that, a service that
// is not known may exist.
func (r *Registry) Complete() bool { return r.complete }

// Counts says how much is believed.
type Counts struct {
	Services  int
	Instances int // the held ones included
	Held      int
	Shadowed  int // statements hidden by another source's statement of the same instance
}

// Counts gives the present counts. It costs nothing.
func (r *Registry) Counts() Counts {
	return Counts{Services: len(r.services), Instances: r.believed, Held: len(r.held), Shadowed: r.shadowed}
}

// Removals counts what became of removals since New.
type Removals struct {
	Explicit uint64 // gone at once because they were explicit
	Passed   uint64 // gone at once because they were few
	Held     uint64 // held, here or before; each of these ends as one of the next five, or as Explicit
	Returned uint64
	Expired  uint64
	// Released were ended by a person, Confirmed by further reads, and Followed by who decides, or by
	// who was adopted from.
	Released, Confirmed, Followed uint64
}

// Removals gives the counts so far.
func (r *Registry) Removals() Removals { return r.removals }
