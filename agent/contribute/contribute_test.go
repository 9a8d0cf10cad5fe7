package contribute

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

func TestNothingIsOpenedUntilTheClusterIsReadViaItsAgents(t *testing.T) {
	s := serve(t, true)
	consul := newRegistry("consul")
	r := contributor(t, []string{s.address}, consul)
	consul.publish(full("a: c1"))
	consul.confirm()
	s.mu.Lock()
	if n := len(s.streams); n > 0 {
		t.Errorf("%d streams", n)
	}
	s.mu.Unlock()
	if r.Ownerless() {
		t.Error("says that it misses an owner it does not look for")
	}
	r.Switch(true, "test")
	in := s.stream(t, 0)
	if h := in.hello; h.GetFederation() != "test" || h.GetCluster() != "edge" || h.GetNode() != "n1" || h.GetIncarnation() != "i1" {
		t.Errorf("hello: %v", h)
	}
	eventually(t, "how it stands", "consul complete heard", in.standings)
	eventually(t, "the owner is found", "false", func() string { return fmt.Sprint(r.Ownerless()) })

	r.Switch(false, "test")
	<-in.ended
	eventually(t, "no stream is left", "0", func() string { return fmt.Sprint(r.metric(t, "streams")) })
	if r.Ownerless() {
		t.Error("says that it misses an owner it does not look for any more")
	}
	r.Switch(true, "test")
	eventually(t, "how it stands, again", "consul complete heard", s.stream(t, 1).standings)
	r.stop()
}

func TestTapPassesEverythingOn(t *testing.T) {
	consul := newRegistry("consul")
	r := contributor(t, nil, consul)
	u := full("a: c1")
	consul.publish(u)
	consul.confirm()
	consul.fail("gone")
	consul.confirm()
	out := r.sinks[0]
	out.mu.Lock()
	defer out.mu.Unlock()
	if len(out.updates) != 1 || &out.updates[0].Snapshots[0] != &u.Snapshots[0] || out.confirms == 0 || !slices.Equal(out.failures, []string{"gone"}) {
		t.Errorf("passed on %+v", out)
	}
}

func TestGrantRevokeAndGrantAgain(t *testing.T) {
	owner, other := serve(t, true), serve(t, false)
	consul := newRegistry("consul")
	r := contributor(t, []string{owner.address, other.address}, consul)
	r.Switch(true, "test")
	in, second := owner.stream(t, 0), other.stream(t, 0)
	consul.publish(full("a: c1 c2", "b: d1"))
	eventually(t, "both know how it stands", "consul complete heard", in.standings)
	eventually(t, "both know how it stands", "consul complete heard", second.standings)

	in.grant("consul", 1)
	in.sends(t, "consul/1 full [a: shop/cart/c1 shop/cart/c2] [b: shop/cart/d1]")
	u := update("a: c1")
	u.Explicit = true
	consul.publish(u)
	in.sends(t,
		"consul/1 full [a: shop/cart/c1 shop/cart/c2] [b: shop/cart/d1]",
		"consul/1 explicit [a: shop/cart/c1]")
	eventually(t, "grants", "1", func() string { return fmt.Sprint(r.metric(t, "grants")) })

	in.grant("consul", 0)
	eventually(t, "grants", "0", func() string { return fmt.Sprint(r.metric(t, "grants")) })
	consul.publish(update("b: d1 d2"))
	in.grant("consul", 3)
	u = update("a: c9")
	u.Reset = "the index went back"
	in.sends(t,
		"consul/1 full [a: shop/cart/c1 shop/cart/c2] [b: shop/cart/d1]",
		"consul/1 explicit [a: shop/cart/c1]",
		"consul/3 full [a: shop/cart/c1] [b: shop/cart/d1 shop/cart/d2]")
	// Another term without a revocation is a new beginning, the same one again is nothing.
	in.grant("consul", 3)
	in.grant("consul", 4)
	eventually(t, "the new term", "4", func() string { return fmt.Sprint(len(in.contributions())) })
	consul.publish(u)
	eventually(t, "a change", "consul/4 reset(the index went back) [a: shop/cart/c9]", func() string {
		all := in.contributions()
		return all[len(all)-1]
	})
	// The other synchronizer gathers for itself.
	if got := second.contributions(); len(got) > 0 {
		t.Errorf("it sent what was not granted: %v", got)
	}
	second.grant("consul", 1)
	second.sends(t, "consul/1 full [a: shop/cart/c9] [b: shop/cart/d1 shop/cart/d2]")
}

func TestHowItStands(t *testing.T) {
	s := serve(t, true)
	consul, mdns := newRegistry("consul"), newRegistry("mdns")
	r := contributor(t, []string{s.address}, consul, mdns)
	r.Switch(true, "test")
	in := s.stream(t, 0)
	eventually(t, "nothing was read", "consul, mdns", in.standings)
	mdns.publish(update("x: m1")) // a listener that has heard something, and not listened long enough
	consul.fail("consul: no leader")
	eventually(t, "one fails", "consul failed: consul: no leader, mdns heard", in.standings)
	consul.publish(full("a: c1"))
	mdns.publish(full("x: m1"))
	eventually(t, "both were read", "consul complete heard, mdns complete heard", in.standings)
	consul.do <- func(resolvers.Sink) error { return errors.New("consul: it is over") }
	eventually(t, "a resolver ended", "consul complete failed: consul: it is over heard, mdns complete heard", in.standings)
	in.mu.Lock()
	said := in.said
	in.mu.Unlock()
	testkit.Eventually(t, testkit.Context(t), "it says so every second", func() error {
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.said < said+2 {
			return errors.New("not yet")
		}
		if age := in.standing.GetLinks()[1].GetAge().AsDuration(); age < time.Second {
			return fmt.Errorf("the age does not grow: %s", age)
		}
		return nil
	})
}

func TestWithoutRegistriesItSaysThatItHasNone(t *testing.T) {
	s := serve(t, true)
	r := contributor(t, []string{s.address})
	r.Switch(true, "test")
	in := s.stream(t, 0)
	eventually(t, "the owner is found", "false", func() string { return fmt.Sprint(r.Ownerless()) })
	in.grant("consul", 1) // nonsense changes nothing
	in.grant("consul", 0)
	eventually(t, "an empty standing", "", in.standings)
}

func TestALinkThatGetsAnotherName(t *testing.T) {
	s := serve(t, true)
	mdns, twin := newRegistry("mdns"), newRegistry("mdns-2")
	r := contributor(t, []string{s.address}, mdns, twin)
	r.rename("mdns", "mdns@10.8.0.0/24")
	r.rename("mdns-2", "mdns@10.8.0.0/24") // of two with one name the first has it
	r.Switch(true, "test")
	in := s.stream(t, 0)
	mdns.publish(full("x: m1"))
	eventually(t, "its first name", "mdns@10.8.0.0/24 complete heard", in.standings)
	r.Read([]catalog.RegistryStatus{{Name: "mdns", Complete: true}, {Name: "mdns-2"}})
	eventually(t, "the view is told", "mdns@10.8.0.0/24", r.told)
	in.grant("mdns@10.8.0.0/24", 1)
	in.sends(t, "mdns@10.8.0.0/24/1 full [x: shop/cart/m1]")

	r.rename("mdns", "mdns@10.9.0.0/24")
	eventually(t, "its second name", "mdns@10.9.0.0/24 complete heard, mdns@10.8.0.0/24", in.standings)
	eventually(t, "the view is told", "mdns@10.9.0.0/24", r.told)
	eventually(t, "the grant is over", "0", func() string { return fmt.Sprint(r.metric(t, "grants")) })
	mdns.publish(full("x: m1 m2"))
	in.grant("mdns@10.9.0.0/24", 1)
	in.sends(t,
		"mdns@10.8.0.0/24/1 full [x: shop/cart/m1]",
		"mdns@10.9.0.0/24/1 full [x: shop/cart/m1 shop/cart/m2]")
	r.rename("mdns", "")
	eventually(t, "it has none any more", "mdns@10.8.0.0/24", in.standings)
	eventually(t, "the view is told", "", r.told)
}

// What this agent cannot read any more it does not speak for: others may know what has come since.
func TestTheViewIsToldWhatCanBeReadNow(t *testing.T) {
	s := serve(t, true)
	consul, file := newRegistry("consul"), newRegistry("file")
	r := contributor(t, []string{s.address}, consul, file)
	r.Switch(true, "test")
	for _, c := range []struct {
		consul catalog.RegistryStatus
		want   string
	}{
		{catalog.RegistryStatus{Name: "consul"}, "file"},
		{catalog.RegistryStatus{Name: "consul", Complete: true, State: catalog.RegistryOK}, "consul file"},
		{catalog.RegistryStatus{Name: "consul", Complete: true, State: catalog.RegistryFailed}, "file"},
		{catalog.RegistryStatus{Name: "consul", Complete: true, State: catalog.RegistryOK}, "consul file"},
	} {
		r.Read([]catalog.RegistryStatus{c.consul, {Name: "file", Complete: true, State: catalog.RegistryOK}})
		eventually(t, "the view is told", c.want, r.told)
	}
}

func TestALinkGrantedBeforeItWasRead(t *testing.T) {
	s := serve(t, true)
	consul := newRegistry("consul")
	r := contributor(t, []string{s.address}, consul)
	r.Switch(true, "test")
	in := s.stream(t, 0)
	in.grant("consul", 1)
	eventually(t, "the grant", "1", func() string { return fmt.Sprint(r.metric(t, "grants")) })
	consul.publish(update("a: c1"))
	consul.publish(full("a: c1", "b: c2"))
	in.sends(t, "consul/1 full [a: shop/cart/c1] [b: shop/cart/c2]")
}

// While a stream is slow, what waits is made one; what was removed on purpose stays so, and the
// other synchronizer does not wait.
func TestSlowSynchronizer(t *testing.T) {
	s, quick := serve(t, true), serve(t, false)
	consul := newRegistry("consul")
	r := contributor(t, []string{s.address, quick.address}, consul)
	r.Switch(true, "test")
	in, other := s.stream(t, 0), quick.stream(t, 0)
	consul.publish(full("a: c1 c2"))
	in.grant("consul", 1)
	other.grant("consul", 1)
	in.sends(t, "consul/1 full [a: shop/cart/c1 shop/cart/c2]")

	s.reading.Lock()
	stuffing := update("stuffing:")
	for n := range 3000 {
		i := update("stuffing: x").Snapshots[0].Instances[0]
		i.Instance = fmt.Sprint("s", n)
		stuffing.Snapshots[0].Instances = append(stuffing.Snapshots[0].Instances, i)
	}
	// The first fills what lies between, and the rest waits.
	for range 30 {
		consul.publish(stuffing)
	}
	testkit.Eventually(t, testkit.Context(t), "something waits", func() error {
		if r.metric(t, "coalesced_snapshots_total") < 20 {
			return errors.New("nothing yet")
		}
		return nil
	})
	sent := r.metric(t, "contributions_total")
	consul.publish(update("a: c1 c2 c3", "b: d1 d2"))
	removed := update("a: c3")
	removed.Explicit = true
	consul.publish(removed) // c1 and c2 on purpose
	consul.publish(update("a: c4", "b: d2"))
	testkit.Eventually(t, testkit.Context(t), "the other one has it all", func() error {
		all := strings.Join(other.contributions(), "\n")
		if !strings.Contains(all, "consul/1 explicit [a: shop/cart/c3]") || !strings.Contains(all, "[b: shop/cart/d2]") {
			return errors.New("not yet")
		}
		return nil
	})
	if now := r.metric(t, "contributions_total"); now < sent {
		t.Errorf("%v contributions after %v", now, sent)
	}
	s.reading.Unlock()
	// Where the stream had room in between, they were sent apart, but never in another order.
	eventually(t, "what was removed on purpose, and in the end what stands", "consul/1 explicit [a: shop/cart/c3] ... consul/1 [a: shop/cart/c4] [b: shop/cart/d2]", func() string {
		removal, last := "", ""
		for _, w := range in.contributions() {
			w, _, _ = strings.Cut(w, " [stuffing:") // in one of them, where it was not sent before
			if strings.Contains(w, " explicit ") {
				removal = w
			}
			last = w
		}
		return removal + " ... " + last
	})
	if n := len(in.contributions()); n > 10 {
		t.Errorf("%d contributions were sent one after the other", n)
	}
}

func TestALargeContributionComesInParts(t *testing.T) {
	s := serve(t, true)
	consul := newRegistry("consul")
	r := contributor(t, []string{s.address}, consul)
	r.Switch(true, "test")
	in := s.stream(t, 0)
	u := full("a:", "b: x")
	pad := strings.Repeat("x", 1000)
	for n := range 5000 {
		i := *u.Snapshots[1].Instances[0]
		i.Instance, i.Metadata = fmt.Sprint("c", n), map[string]string{"pad": pad}
		u.Snapshots[0].Instances = append(u.Snapshots[0].Instances, &i)
	}
	consul.publish(u)
	in.grant("consul", 1)
	testkit.Eventually(t, testkit.Context(t), "all of it", func() error {
		if n := len(in.contributions()); n != 1 {
			return fmt.Errorf("%d contributions", n)
		}
		return nil
	})
	in.mu.Lock()
	defer in.mu.Unlock()
	ids := map[string]bool{}
	for _, sn := range in.got[0].GetSnapshots() {
		for _, i := range sn.GetInstances() {
			ids[sn.GetSource()+" "+i.GetId()] = true
		}
	}
	if len(ids) != 5001 || !ids["a c0"] || !ids["a c4999"] || !ids["b x"] {
		t.Errorf("%d instances came", len(ids))
	}
	if in.messages < 5 || in.largest > 3*partSize/2 {
		t.Errorf("in %d messages, the largest of %d bytes", in.messages, in.largest)
	}
}

func TestReconnects(t *testing.T) {
	s := serve(t, true)
	consul := newRegistry("consul")
	r := contributor(t, []string{s.address}, consul)
	r.Switch(true, "test")
	in := s.stream(t, 0)
	consul.publish(full("a: c1"))
	in.grant("consul", 7)
	in.sends(t, "consul/7 full [a: shop/cart/c1]")
	s.stop()
	eventually(t, "it notices", "true 0 0", func() string {
		return fmt.Sprint(r.Ownerless(), " ", r.metric(t, "grants"), " ", r.metric(t, "streams"))
	})
	consul.publish(full("a: c2"))
	s.mu.Lock()
	s.refuse = status.Error(codes.FailedPrecondition, "this cluster is not read via its agents")
	s.mu.Unlock()
	s.start(t, s.address)
	testkit.Eventually(t, testkit.Context(t), "it is refused, and tries again", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.streams) < 3 {
			return errors.New("not yet")
		}
		s.refuse = nil
		return nil
	})
	s.mu.Lock()
	refused := len(s.streams)
	s.mu.Unlock()
	in = s.stream(t, refused)
	eventually(t, "how it stands", "consul complete heard", in.standings)
	if got := in.contributions(); len(got) > 0 {
		t.Errorf("it went on with what another stream was granted: %v", got)
	}
	in.grant("consul", 8)
	in.sends(t, "consul/8 full [a: shop/cart/c2]")
	r.stop()
}

// One address may stand for several synchronizers, and only one of them writes the cluster.
func TestSeeksTheOwnerBehindOneAddress(t *testing.T) {
	owner, other, third := serve(t, true), serve(t, false), serve(t, false)
	several := manual.NewBuilderWithScheme("several")
	several.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: other.address}, {Addr: third.address}, {Addr: owner.address}}})
	resolver.Register(several)
	r := contributor(t, []string{"several:///synchronizer"})
	r.patience = 10 * time.Millisecond
	r.Switch(true, "test")
	owner.stream(t, 0)
	eventually(t, "the owner is found", "false", func() string { return fmt.Sprint(r.Ownerless()) })
}

// A synchronizer that takes a stream and reads nothing holds up neither the others nor the end.
func TestDeafSynchronizer(t *testing.T) {
	deaf, s := serve(t, false), serve(t, true)
	deaf.reading.Lock()
	consul := newRegistry("consul")
	r := contributor(t, []string{deaf.address, s.address}, consul)
	r.Switch(true, "test")
	testkit.Eventually(t, testkit.Context(t), "the deaf one has a stream", func() error {
		deaf.mu.Lock()
		defer deaf.mu.Unlock()
		if len(deaf.streams) == 0 {
			return errors.New("not yet")
		}
		deaf.streams[0].grant("consul", 1)
		return nil
	})
	u := full("a: c1")
	u.Snapshots[0].Instances[0].Metadata = map[string]string{"pad": strings.Repeat("x", 200_000)}
	for range 20 {
		consul.publish(u)
	}
	in := s.stream(t, 0)
	in.grant("consul", 1)
	testkit.Eventually(t, testkit.Context(t), "the other one has it", func() error {
		if len(in.contributions()) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	r.stop() // fails the test where it takes longer than 20 s
	deaf.reading.Unlock()
}

func TestConfigIsChecked(t *testing.T) {
	r := contributor(t, nil)
	for _, c := range []Config{
		{Cluster: "", Node: "n", Incarnation: "i"},
		{Cluster: "edge", Incarnation: "i"},
		{Cluster: "edge", Node: "n"},
		{Cluster: "edge", Node: "n", Incarnation: "i", Links: []LinkSource{{}}},
	} {
		if _, err := New(c, Deps{Log: testkit.Quiet(), Metrics: prometheus.NewRegistry()}); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	r.stop()
}

// TestTheLastWordIsHeard says that an agent that ends tells that its applications were taken
// back, however late its registry says so.
func TestTheLastWordIsHeard(t *testing.T) {
	s := serve(t, true)
	mdns := newRegistry("mdns")
	r := contributor(t, []string{s.address}, mdns)
	r.Farewell(testkit.Context(t), []string{"m1"}) // which nobody is to wait for: the cluster is not read via its agents
	r.Switch(true, "test")
	in := s.stream(t, 0)
	mdns.publish(full("x: m1", "y: other"))
	in.grant("mdns", 1)
	in.sends(t, "mdns/1 full [x: shop/cart/m1] [y: shop/cart/other]")

	waited := make(chan struct{})
	go func() {
		defer close(waited)
		r.Farewell(testkit.Context(t), []string{"m1"})
		r.stop()
	}()
	select {
	case <-waited:
		t.Fatal("it ended though its application still stands")
	case <-time.After(100 * time.Millisecond):
	}
	u := full("x:")
	u.Full, u.Explicit = false, true
	mdns.publish(u)
	<-waited
	in.sends(t, "mdns/1 full [x: shop/cart/m1] [y: shop/cart/other]", "mdns/1 explicit [x:]")
}
