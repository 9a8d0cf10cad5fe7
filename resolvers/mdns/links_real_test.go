//go:build real && linux

package mdns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// lists wants exactly these instances, as "id address:port".
func lists(want ...string) func([]*catalog.Instance) error {
	return func(list []*catalog.Instance) error {
		var have []string
		for _, in := range list {
			have = append(have, fmt.Sprintf("%s %s:%d", in.Instance, in.Address, in.Port))
		}
		if a, b := strings.Join(have, ", "), strings.Join(want, ", "); a != b {
			return fmt.Errorf("listed are %s, want %s", a, b)
		}
		return nil
	}
}

// confirmed waits for one more Confirm than there were.
func (s *sinkRecord) confirmed(t testing.TB) {
	t.Helper()
	before, _ := s.counts()
	testkit.Eventually(t, testkit.Context(t), "the list is confirmed", func() error {
		if now, _ := s.counts(); now == before {
			return fmt.Errorf("no Confirm; the last failure: %w", s.lastFailure())
		}
		return nil
	})
}

// fails waits for one more failure, which says this.
func (s *sinkRecord) fails(t testing.TB, says string) {
	t.Helper()
	_, before := s.counts()
	testkit.Eventually(t, testkit.Context(t), "the failure is told", func() error {
		if _, now := s.counts(); now == before {
			return errors.New("no failure")
		}
		if err := s.lastFailure(); !strings.Contains(err.Error(), says) {
			return fmt.Errorf("%w, want %q", err, says)
		}
		return nil
	})
}

func TestRealAnInterfaceGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	peer := testkit.Avahi(t, n.Host("peer"))
	at := n.Prefix.Addr().Next().Next().String()
	peer.Publish("1", "one", "_farcall._tcp", "", 8001, "app=cart")
	peer.Publish("2", "two", "_farcall._tcp", "", 8002, "app=cart")
	one, two, three := "one "+at+":8001", "two "+at+":8002", "three "+at+":8003"

	rec := follow(t, Config{}) // no interface is named: what is there is used
	rec.eventually(t, "both are listed", lists(one, two))
	rec.confirmed(t)

	self.Discard()
	rec.fails(t, self.Link+" is gone")
	rec.eventually(t, "the list stays", lists(one, two))
	peer.Unpublish("1")
	peer.Publish("3", "three", "_farcall._tcp", "", 8003, "app=cart")
	self.Restore()
	rec.eventually(t, "what changed meanwhile is listed when it is back", lists(three, two))
	if rec.lastRemovalExplicit() {
		t.Error("nobody heard the goodbye, so it is an absence")
	}
	rec.confirmed(t)

	self.Unplug()
	rec.fails(t, self.Link+" has no carrier")
	self.Plug()
	rec.confirmed(t)
	rec.eventually(t, "and nothing was lost", lists(three, two))
	peer.Unpublish("3")
	rec.eventually(t, "a goodbye is heard", lists(two))
	if !rec.lastRemovalExplicit() {
		t.Error("a goodbye is an explicit removal")
	}
}

// TestRealAPartitionIsNotSeen: the switch passes nothing on, and nobody can tell that from a
// quiet link. The records live on, and are renewed when it is over.
func TestRealAPartitionIsNotSeen(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	host := n.Host("peer")
	peer := testkit.Avahi(t, host)
	peer.Publish("1", "one", "_farcall._tcp", "", 8001, "app=cart")
	rec := follow(t, Config{Interfaces: []string{self.Link}})
	one := fmt.Sprintf("one %s:8001", host.Addr)
	rec.eventually(t, "it is listed", lists(one))
	host.Isolate()
	for range 3 {
		rec.confirmed(t)
	}
	rec.eventually(t, "it is still listed", lists(one))
	host.Rejoin()
	peer.Unpublish("1")
	rec.eventually(t, "its goodbye is heard", lists())
}

func TestRealIPv6Alone(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self, host := n.Attach(), n.Host("peer")
	self.OnlyIPv6()
	host.OnlyIPv6()
	peer := testkit.Avahi(t, host)
	peer.Publish("1", "one", "_farcall._tcp", "", 8001, "app=cart")
	r, err := New(Config{Interfaces: []string{self.Link}}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	rec := followResolver(t, r)
	rec.eventually(t, "it is listed at its IPv6 address", lists(fmt.Sprintf("one %s:8001", host.Addr6)))
	if r.Link() != n.Prefix6.Masked().String() {
		t.Errorf("the link is called %q, want %s", r.Link(), n.Prefix6.Masked())
	}
}

// TestRealNoise: whatever is sent to the group, the good ones go on.
func TestRealNoise(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self, host := n.Attach(), n.Host("peer")
	peer := testkit.Avahi(t, host)
	peer.Publish("1", "one", "_farcall._tcp", "", 8001, "app=cart")
	rec := follow(t, Config{Interfaces: []string{self.Link}})
	rec.eventually(t, "it is listed", lists(fmt.Sprintf("one %s:8001", host.Addr)))

	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: self.Addr.AsSlice()}, &net.UDPAddr{IP: group4.AsSlice(), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list := seeds(t)
	for i := range 3000 {
		b := make([]byte, i%1400)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 && len(list[i/10%len(list)]) < 1400 {
			b = list[i/10%len(list)]
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	peer.Publish("2", "two", "_farcall._tcp", "", 8002, "app=cart")
	rec.eventually(t, "a later one is listed, too", lists(fmt.Sprintf("one %s:8001", host.Addr), fmt.Sprintf("two %s:8002", host.Addr)))
	rec.confirmed(t)
}

// TestRealTheCrashedVanish: an avahi-daemon, a daprd and a Farcall node die without a word. What
// they announced goes when its time is over: within two minutes, or as soon as the node said.
func TestRealTheCrashedVanish(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	avahi, dapr, node := n.Host("avahi"), n.Host("dapr"), n.Host("node")
	peer := testkit.Avahi(t, avahi)
	peer.Publish("1", "one", "_farcall._tcp", "", 8001, "app=cart")
	sidecar := testkit.Daprd(t, dapr, testkit.DaprdConfig{AppID: "shop"})
	announcer := startAnnouncer(t, node)

	rec := follow(t, Config{Interfaces: []string{self.Link}})
	named := func(want ...string) func([]*catalog.Instance) error {
		return func(list []*catalog.Instance) error {
			var have []string
			for _, in := range list {
				have = append(have, in.Service)
			}
			if fmt.Sprint(have) != fmt.Sprint(want) {
				return fmt.Errorf("listed are %v, want %v", have, want)
			}
			return nil
		}
	}
	rec.eventually(t, "all are listed", named("cart", "doomed", "shop"))

	announcer()
	began := time.Now()
	rec.eventually(t, "the node that said 5 s is gone", named("cart", "shop"))
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("it was gone after %v: somebody took it back", took)
	}
	peer.Kill()
	sidecar.Kill()
	rec.confirmed(t)
	rec.eventually(t, "nobody is missed at once", named("cart", "shop"))
	rec.eventually(t, "both are gone", named())
	t.Logf("gone after %v", time.Since(began).Round(time.Second))
	if rec.lastRemovalExplicit() {
		t.Error("nobody said goodbye")
	}
	rec.confirmed(t)
}
