//go:build real

package dns

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

// servers are two real servers that have no code in common.
var servers = map[string]func(testing.TB, ...string) *testkit.DNSServer{
	"CoreDNS": testkit.CoreDNS,
	"named":   testkit.Named,
}

const zone = "conf.test."

// book is the suite's registry as a zone.
type book struct {
	srv      *testkit.DNSServer
	services map[string]map[string]catalog.Instance
}

func (b *book) write(t testing.TB) {
	t.Helper()
	var records []string
	for service, instances := range b.services {
		if len(instances) == 0 {
			records = append(records, fmt.Sprintf(`_%s._tcp TXT "no instance at present"`, service))
		}
		for _, i := range instances {
			records = append(records,
				fmt.Sprintf("_%s._tcp 1 SRV 0 0 %d %s", service, i.Port, i.Instance),
				fmt.Sprintf("%s 1 A %s", i.Instance, i.Address))
		}
	}
	b.srv.SetZone(zone, records...)
}

func TestRealConformance(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			srv := start(t, zone)
			resolvertest.Run(t, func(t *testing.T) *resolvertest.Registry {
				b := &book{srv: srv, services: map[string]map[string]catalog.Instance{}}
				b.write(t)
				return &resolvertest.Registry{
					Resolver: func(t testing.TB) resolvers.Resolver {
						r, err := New(Config{Servers: []string{srv.Addr}, Services: map[string]Service{
							"alpha": {Name: "_alpha._tcp." + zone, SRVPort: PortApp},
							"beta":  {Name: "_beta._tcp." + zone, SRVPort: PortApp},
						}}, deps(t))
						if err != nil {
							t.Fatal(err)
						}
						return r
					},
					Put: func(t testing.TB, i catalog.Instance) {
						if b.services[i.Service] == nil {
							b.services[i.Service] = map[string]catalog.Instance{}
						}
						b.services[i.Service][i.Instance] = i
						b.write(t)
					},
					Remove: func(t testing.TB, id catalog.ID) {
						delete(b.services[id.Service], id.Instance)
						if len(b.services[id.Service]) == 0 {
							delete(b.services, id.Service)
						}
						b.write(t)
					},
					Empty: func(t testing.TB, service string) {
						clear(b.services[service])
						b.write(t)
					},
					Break: func(testing.TB) func() {
						srv.Kill()
						return srv.Start
					},
					Hang: func(testing.TB) func() {
						srv.Pause()
						return srv.Resume
					},
					Healths: []catalog.Health{catalog.Unknown},
					ID: func(i *catalog.Instance) string {
						target, _, _ := strings.Cut(i.Instance, ".")
						return target
					},
					Within: 15 * time.Second,
				}
			})
		})
	}
}
