package synchronizer

import (
	"fmt"
	"net"
	"testing"

	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/store"
)

func TestPeers(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	r.meets(t, "r3", "10.0.0.3:7700")
	r.meets(t, "r2", "10.0.0.2:7700")
	r.meets(t, "wild", "[::]:7700")
	h := r.s.hub
	h.Apply([]store.Entry{{Key: h.watchdog.schema.Format(keys.Key{Kind: keys.Replica, Replica: "odd"}), Value: []byte("?"), Revision: 1}}, 1)
	want := "[{r2 10.0.0.2:7700} {r3 10.0.0.3:7700}]"
	if got := fmt.Sprint(r.s.peers()); got != want {
		t.Errorf("the others are %s, want %s", got, want)
	}
	// What is left of earlier lives, of another replica and of this one, is nobody to ask besides.
	r.meets(t, "r4", "10.0.0.2:7700")
	r.meets(t, "r0", r.s.grpcL.Addr().String())
	if got := fmt.Sprint(r.s.peers()); got != want {
		t.Errorf("with those of earlier lives the others are %s, want %s", got, want)
	}
	h.Apply([]store.Entry{{Key: h.watchdog.schema.Format(keys.Key{Kind: keys.Replica, Replica: "r3"}), Deleted: true, Revision: 1}}, 1)
	if got := fmt.Sprint(r.s.peers()); got != "[{r2 10.0.0.2:7700}]" {
		t.Errorf("with one gone the others are %s", got)
	}
}

func TestAdvertised(t *testing.T) {
	etcd := func(endpoints ...string) store.Config {
		return store.Config{Etcd: &store.EtcdConfig{Endpoints: endpoints}}
	}
	at := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		listening string
		cfg       store.Config
		want      string
	}{
		{"10.0.0.1:7700", etcd("http://127.0.0.1:2379"), "10.0.0.1:7700"},
		{"0.0.0.0:7700", etcd("http://127.0.0.1:2379"), "127.0.0.1:7700"},
		{"[::]:7700", etcd("not an address", "127.0.0.1:2379"), "127.0.0.1:7700"},
		{"[::]:7700", etcd("not an address"), "[::]:7700"},
		{"[::]:7700", store.Config{Embedded: &store.EmbeddedConfig{}}, "[::]:7700"},
	} {
		if got := advertised(at(c.listening), c.cfg); got != c.want {
			t.Errorf("%s is advertised as %s, want %s", c.listening, got, c.want)
		}
	}
}
