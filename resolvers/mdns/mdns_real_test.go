//go:build real && linux

package mdns

import (
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

// announcer lets an avahi-daemon announce instances of ownType.
type announcer struct{ *testkit.AvahiServer }

func (a announcer) put(in catalog.Instance) {
	host := in.Instance + ".local"
	a.Unpublish(in.Instance)
	a.PublishAddress(host, host, in.Address)
	a.Publish(in.Instance, in.Instance, "_farcall._tcp", host, in.Port, "app="+in.Service)
}

func (a announcer) remove(id string) {
	a.Unpublish(id)
	a.Unpublish(id + ".local")
}

func TestRealConformance(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	peer := announcer{testkit.Avahi(t, n.Host("peer"))}
	put := map[string]bool{}
	resolvertest.Run(t, func(t *testing.T) *resolvertest.Registry {
		for id := range put {
			peer.remove(id)
			delete(put, id)
		}
		return &resolvertest.Registry{
			Resolver: func(t testing.TB) resolvers.Resolver {
				r, err := New(Config{Interfaces: []string{self.Link}}, deps(t))
				if err != nil {
					t.Fatal(err)
				}
				return r
			},
			Put: func(_ testing.TB, in catalog.Instance) {
				put[in.Instance] = true
				peer.put(in)
			},
			Remove: func(_ testing.TB, id catalog.ID) { peer.remove(id.Instance) },
			Break: func(testing.TB) func() {
				self.LinkDown()
				return self.LinkUp
			},
			// Nobody on a link must answer anything: that it hangs shows by the carrier only.
			Hang: func(testing.TB) func() {
				self.Unplug()
				return self.Plug
			},
			Healths:  []catalog.Health{catalog.Unknown},
			Explicit: true,
			Within:   30 * time.Second,
		}
	})
}
