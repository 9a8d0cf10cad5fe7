package mdns

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// announceEnv makes the test binary a node that announces one application, at this address, until
// it is killed.
const announceEnv = "FARCALL_TEST_ANNOUNCE"

func TestMain(m *testing.M) {
	if addr := os.Getenv(announceEnv); addr != "" {
		panic(announceForever(addr))
	}
	testkit.Main(m)
}

func announceForever(addr string) error {
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		return err
	}
	r, err := NewRegistrar(Config{TTL: leastTTL}, Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		return err
	}
	return r.Run(context.Background(), []resolvers.Registration{{
		Name: catalog.Name{Service: "doomed"}, Node: "n", ID: "doomed-1", Address: addr, Port: l.Addr().(*net.TCPAddr).Port, RelayPort: 50002,
	}})
}

func deps(t testing.TB) Deps {
	return Deps{Log: testkit.Log(t), Metrics: NewMetrics(prometheus.NewRegistry()), Registry: "east/mdns"}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		says []string
	}{
		{name: "nothing"},
		{name: "names", cfg: Config{Interfaces: []string{"eth0", "br-1.2"}, TTL: 5 * time.Second}},
		{name: "everything wrong", cfg: Config{Interfaces: []string{"", "eth0", "10.0.0.0/24", "eth0"}, TTL: time.Hour},
			says: []string{`"" is not the name`, `"10.0.0.0/24" is not the name`, `"eth0" stands twice`, "ttl 1h0m0s: want 5s to 2m0s"}},
		{name: "too short", cfg: Config{TTL: time.Second}, says: []string{"ttl 1s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg, deps(t))
			_, err2 := NewRegistrar(tt.cfg, deps(t))
			if (err == nil) != (len(tt.says) == 0) || (err == nil) != (err2 == nil) {
				t.Fatalf("%v, %v", err, err2)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %q", err, s)
				}
			}
		})
	}
}
