package resolvertest

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// memory is a registry in memory: what the suite asks is asked here of resolvers that are wrong
// on purpose, and no real server has those.
type memory struct {
	mu      sync.Mutex
	list    map[catalog.ID]catalog.Instance
	names   map[string]bool // services that are known, with instances or without
	broken  bool
	hanging chan struct{} // closed when it hangs no more; nil when it does not hang
}

func newMemory(flaw string) *Registry {
	m := &memory{list: map[catalog.ID]catalog.Instance{}, names: map[string]bool{}}
	locked := func(f func()) {
		m.mu.Lock()
		defer m.mu.Unlock()
		f()
	}
	return &Registry{
		Resolver: func(testing.TB) resolvers.Resolver {
			return &flawed{memory: m, flaw: flaw, ever: map[catalog.ID]catalog.Instance{}}
		},
		Put: func(_ testing.TB, in catalog.Instance) {
			locked(func() { m.list[in.ID], m.names[in.Service] = in, true })
		},
		Remove: func(_ testing.TB, id catalog.ID) {
			locked(func() {
				delete(m.list, id)
				m.names[id.Service] = m.serves(id.Service)
			})
		},
		Empty: func(_ testing.TB, service string) {
			locked(func() {
				maps.DeleteFunc(m.list, func(id catalog.ID, _ catalog.Instance) bool { return id.Service == service })
				m.names[service] = true
			})
		},
		Break: func(testing.TB) func() {
			locked(func() { m.broken = true })
			return func() { locked(func() { m.broken = false }) }
		},
		Hang: func(testing.TB) func() {
			hanging := make(chan struct{})
			locked(func() { m.hanging = hanging })
			return func() { locked(func() { m.hanging = nil }); close(hanging) }
		},
		Healths: []catalog.Health{catalog.Healthy, catalog.Unhealthy},
		Within:  2 * time.Second,
	}
}

func (m *memory) serves(service string) bool {
	for id := range m.list {
		if id.Service == service {
			return true
		}
	}
	return false
}

// flawed is a resolver of a memory with the flaw that a case of the suite is there to find; with
// none, it is sound.
type flawed struct {
	*memory
	flaw string
	ever map[catalog.ID]catalog.Instance // over all Runs
	last string
	runs int
}

var errBroken = errors.New("the registry is broken")

func (f *flawed) Run(ctx context.Context, out resolvers.Sink) error {
	f.runs++
	if f.flaw == "Run leaves no goroutine" {
		go func() { select {} }()
	}
	told := false
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for confirmed := time.Now(); ; {
		u, err := f.read(ctx, out)
		words := f.words(u)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			out.Failed(err)
			if told && f.flaw == "a failed read publishes nothing and the list stays" ||
				!told && f.flaw == "a registry that cannot be read at first is not an empty one" {
				out.Publish(catalog.Update{Full: true})
				told = true
			}
			if f.flaw == "Run ends within a second while the registry fails" {
				<-ctx.Done()
				tarry()
			}
		case f.flaw == "a second Run starts full" && f.runs > 1 && !told && words == f.last:
		case f.flaw == "an empty registry is a full empty list" && len(u.Snapshots) == 0:
		case !told || words != f.last:
			if f.flaw == "the first update is the full list" && !told && len(u.Snapshots) > 1 {
				out.Publish(catalog.Update{Full: true, Snapshots: u.Snapshots[:1]})
			}
			out.Publish(u)
			told, f.last, confirmed = true, words, time.Now()
		case f.flaw != "what holds is confirmed about every second" && time.Since(confirmed) > time.Second/2:
			out.Confirm()
			confirmed = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// read asks the memory once.
func (f *flawed) read(ctx context.Context, out resolvers.Sink) (catalog.Update, error) {
	f.mu.Lock()
	hanging := f.hanging
	f.mu.Unlock()
	if hanging != nil {
		patience := time.NewTicker(time.Second / 2)
		defer patience.Stop()
		for waits := true; waits; {
			select {
			case <-hanging:
				waits = false
			case <-patience.C:
				if f.flaw == "a hanging registry is not confirmed" && f.last != "" {
					out.Confirm()
				}
			case <-ctx.Done():
				if f.flaw == "Run ends within a second while the registry hangs" {
					tarry()
				}
				return catalog.Update{}, ctx.Err()
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return catalog.Update{}, errBroken
	}
	list := maps.Clone(f.list)
	switch f.flaw {
	case "additions, changes and removals are seen":
		for id, in := range f.ever {
			if _, ok := list[id]; !ok {
				list[id] = in
			}
		}
		maps.Copy(f.ever, f.list)
	case "what was removed stays removed":
		if f.runs == 1 && strings.Contains(f.last, "alpha-2") && len(f.list) == 2 && !strings.Contains(f.last, "alpha-3") {
			maps.Copy(list, f.ever) // with the next addition, all that ever was comes back
		} else {
			maps.Copy(f.ever, f.list)
		}
	}
	u := catalog.Update{Full: true}
	for _, name := range slices.Sorted(maps.Keys(f.names)) {
		if !f.names[name] && !serves(list, name) || f.flaw == "a service emptied on purpose stays known" && !serves(list, name) {
			continue
		}
		s := catalog.Snapshot{Source: name, Services: []catalog.Name{{Service: name}}}
		for _, in := range list {
			if in.Service == name {
				s.Instances = append(s.Instances, &in)
			}
		}
		catalog.SortInstances(s.Instances)
		u.Snapshots = append(u.Snapshots, s)
	}
	return u, nil
}

// tarry is what a Run must not do that is to end.
func tarry() { <-time.NewTimer(3 * time.Second).C }

func serves(list map[catalog.ID]catalog.Instance, service string) bool {
	for id := range list {
		if id.Service == service {
			return true
		}
	}
	return false
}

func (f *flawed) words(u catalog.Update) string {
	var b strings.Builder
	for _, s := range u.Snapshots {
		b.WriteString(s.Source + ":")
		for _, in := range s.Instances {
			b.WriteString(" " + in.Instance + "@" + in.Address + "/" + in.Health.String())
		}
		b.WriteString("\n")
	}
	return b.String()
}

// caseEnv names the one case that this process is to run, on a resolver with the flaw that it is
// there to find.
const caseEnv = "FARCALL_TEST_FLAWED_CASE"

// TestASoundResolverPasses says that the suite asks nothing that a right resolver would not do.
func TestASoundResolverPasses(t *testing.T) {
	if name := os.Getenv(caseEnv); name != "" {
		for _, c := range cases {
			if c.name == name {
				c.run(t, newMemory(name))
			}
		}
		return
	}
	t.Parallel()
	Run(t, func(*testing.T) *Registry { return newMemory("") })
}

// TestEachCaseFindsItsFlaw says that no case of the suite passes whatever a resolver does: each
// is run on one that is wrong in just what the case asks, and must fail.
func TestEachCaseFindsItsFlaw(t *testing.T) {
	if os.Getenv(caseEnv) != "" {
		t.Fatal("a process for one case runs that case only")
	}
	t.Parallel()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(testkit.Context(t), os.Args[0], "-test.run=^TestASoundResolverPasses$", "-test.v")
			cmd.Env = append(os.Environ(), caseEnv+"="+c.name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestASoundResolverPasses") {
				t.Errorf("a resolver with that flaw passes: %v\n%s", err, out)
			}
		})
	}
}
