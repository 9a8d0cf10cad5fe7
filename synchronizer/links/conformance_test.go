package links

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

// captured is an intake that only keeps the resolver it is given.
type captured struct{ resolver resolvers.Resolver }

func (c *captured) Add(r intake.Registry) error { c.resolver = r.Resolver; return nil }
func (c *captured) Retire(string)               {}
func (c *captured) Drop(string)                 {}

func (c *captured) Status() []catalog.RegistryStatus { return nil }

// reported is a link whose registry is the test: one agent reports it.
type reported struct {
	*agent
	resolver resolvers.Resolver
	records  map[string]map[string]*catalogv1.Instance // by service and id
	hung     bool
}

func startReported(t *testing.T) *reported {
	in := &captured{}
	c := New("edge", Deps{
		Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry()), Registries: in,
		Known:  func() []Known { return nil },
		Stored: func(string) []*catalog.Instance { return nil },
		// The owner has no use for it here.
		Reported: func() {},
	})
	testkit.Go(t, "links", c.Run)
	r := &reported{records: map[string]map[string]*catalogv1.Instance{}}
	r.agent = join(t, c, "node-a")
	r.change(func() { r.links["m"] = &hears{full: r.all} })
	testkit.Eventually(t, testkit.Context(t), "the link is known", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if in.resolver == nil {
			return errNotYet
		}
		r.resolver = in.resolver
		return nil
	})
	testkit.Go(t, "registry", r.answers)
	return r
}

// read lets the agent read its registry for the first time, where it can.
func (r *reported) read() {
	r.change(func() { r.links["m"].complete = r.links["m"].complete || r.links["m"].failure == "" })
}

// answers lets the agent's registry answer now and then.
func (r *reported) answers(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			r.change(func() {
				if l := r.links["m"]; r.hung {
					l.age += 100 * time.Millisecond
				} else {
					l.age = 0
				}
			})
		}
	}
}

// put changes the registry and waits until the agent has passed that on, where it can.
func (r *reported) put(f func()) {
	r.change(f)
	r.send()
}

// queue makes the agent send one service as it is now.
func (r *reported) queue(service string, explicit bool) {
	if l := r.links["m"]; !r.hung {
		l.queued = append(l.queued, &feedv1.Contribution{Explicit: explicit, Snapshots: []*feedv1.Snapshot{r.service(service)}})
	}
}

// service gives one service as it is now; one that is not known lists nothing.
func (r *reported) service(name string) *feedv1.Snapshot {
	list, known := r.records[name]
	s := snapshot(name, nil)
	if !known {
		s.Services = nil
	}
	for _, i := range list {
		s.Instances = append(s.Instances, i)
	}
	return s
}

func (r *reported) all() []*feedv1.Snapshot {
	var out []*feedv1.Snapshot
	for name := range r.records {
		out = append(out, r.service(name))
	}
	return out
}

func TestLinkIsAResolver(t *testing.T) {
	resolvertest.Run(t, func(t *testing.T) *resolvertest.Registry {
		r := startReported(t)
		return &resolvertest.Registry{
			Resolver: func(testing.TB) resolvers.Resolver { r.read(); return r.resolver },
			Put: func(_ testing.TB, i catalog.Instance) {
				r.put(func() {
					if r.records[i.Service] == nil {
						r.records[i.Service] = map[string]*catalogv1.Instance{}
					}
					i.Namespace = "default"
					r.records[i.Service][i.Instance] = i.Proto()
					r.queue(i.Service, false)
				})
			},
			Remove: func(_ testing.TB, id catalog.ID) {
				r.put(func() {
					delete(r.records[id.Service], id.Instance)
					if len(r.records[id.Service]) == 0 {
						delete(r.records, id.Service)
					}
					r.queue(id.Service, true)
				})
			},
			Empty: func(_ testing.TB, service string) {
				r.put(func() { clear(r.records[service]); r.queue(service, true) })
			},
			Break: func(testing.TB) func() {
				r.change(func() { r.links["m"].failure = "it is broken" })
				return func() { r.change(func() { r.links["m"].failure = "" }); r.read() }
			},
			Hang: func(testing.TB) func() {
				r.change(func() { r.hung = true })
				return func() {
					r.change(func() {
						r.hung = false
						for service := range r.records {
							r.queue(service, false)
						}
					})
				}
			},
			Healths:  []catalog.Health{catalog.Healthy, catalog.Unhealthy, catalog.Draining},
			Explicit: true,
		}
	})
}
