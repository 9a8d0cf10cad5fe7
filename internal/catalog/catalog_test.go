package catalog

import (
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestParseName(t *testing.T) {
	for _, c := range []struct{ s, ns, want, says string }{
		{s: "cart", want: "default/cart"},
		{s: "cart", ns: "shop", want: "shop/cart"},
		{s: "cart.shop", ns: "other", want: "shop/cart"},
		{s: "shop/cart", want: "shop/cart"},
		{s: "shop/cart.v2", want: "shop/cart.v2"},
		{s: "a.b.c", says: "more than one dot"},
		{s: "", says: "service is empty"},
		{s: ".shop", says: "service is empty"},
		{s: "cart.", says: "namespace is empty"},
		{s: "/cart", says: "namespace is empty"},
		{s: "ca\x00rt", says: "control character"},
		{s: "\xff", says: "UTF-8"},
		{s: strings.Repeat("x", 254), says: "longer than 253"},
	} {
		n, err := ParseName(c.s, c.ns)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%.20q: %v, want an error that says %q", c.s, err, c.says)
			}
			continue
		}
		if err != nil || n.String() != c.want {
			t.Errorf("%q in %q: %s %v, want %s", c.s, c.ns, n, err, c.want)
		}
	}
}

func good() *Instance {
	return &Instance{
		ID: ID{Cluster: "east", Name: Name{"default", "cart"}, Instance: "a"}, Node: "n1",
		Address: "10.0.0.1", Port: 80, Weight: 1, Health: Healthy, Metadata: map[string]string{"k": "v"},
	}
}

func TestInstanceCheck(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(*Instance)
		says  string // empty: still good
	}{
		"host name":             {func(i *Instance) { i.Address = "cart-1.example." }, ""},
		"IPv6":                  {func(i *Instance) { i.Address = "2001:db8::1" }, ""},
		"loopback is its own":   {func(i *Instance) { i.Address = "127.0.0.1" }, ""},
		"relay only":            {func(i *Instance) { i.Port, i.Relay = 0, "10.0.0.1:50002" }, ""},
		"weight 0 is a state":   {func(i *Instance) { i.Weight = 0 }, ""},
		"no id":                 {func(i *Instance) { i.Instance = "" }, "id is empty"},
		"10 MB of name":         {func(i *Instance) { i.Service = strings.Repeat("x", 10<<20) }, "longer than"},
		"port 70000":            {func(i *Instance) { i.Port = 70000 }, "port 70000"},
		"port -1":               {func(i *Instance) { i.Port = -1 }, "port -1"},
		"port 0 without relay":  {func(i *Instance) { i.Port = 0 }, "no relay"},
		"no address, no relay":  {func(i *Instance) { i.Address = "" }, "neither"},
		"metadata service":      {func(i *Instance) { i.Address = "169.254.169.254" }, "link-local"},
		"mapped link-local":     {func(i *Instance) { i.Address = "::ffff:169.254.169.254" }, "link-local"},
		"IPv6 link-local":       {func(i *Instance) { i.Address = "fe80::1" }, "link-local"},
		"multicast":             {func(i *Instance) { i.Address = "224.0.0.251" }, "multicast"},
		"unspecified":           {func(i *Instance) { i.Address = "0.0.0.0" }, "unspecified"},
		"broadcast":             {func(i *Instance) { i.Address = "255.255.255.255" }, "broadcast"},
		"a URL for an address":  {func(i *Instance) { i.Address = "http://10.0.0.1" }, "neither an IP address nor a host name"},
		"relay without a port":  {func(i *Instance) { i.Relay = "10.0.0.1" }, "host:port"},
		"relay port 0":          {func(i *Instance) { i.Relay = "10.0.0.1:0" }, "port"},
		"relay port 70000":      {func(i *Instance) { i.Relay = "10.0.0.1:70000" }, "port"},
		"relay to metadata":     {func(i *Instance) { i.Relay = "169.254.169.254:80" }, "link-local"},
		"weight beyond reason":  {func(i *Instance) { i.Weight = 1 << 20 }, "weight"},
		"too much metadata":     {func(i *Instance) { i.Metadata = map[string]string{"k": strings.Repeat("v", 65<<10)} }, "metadata"},
		"metadata is not text":  {func(i *Instance) { i.Metadata = map[string]string{"k": "\xff"} }, "UTF-8"},
		"locality is not text":  {func(i *Instance) { i.Locality.Zone = "\xff" }, "UTF-8"},
		"control in namespace":  {func(i *Instance) { i.Namespace = "a\nb" }, "control character"},
		"node is not text":      {func(i *Instance) { i.Node = "\xff" }, "UTF-8"},
		"IPv4 in wrong clothes": {func(i *Instance) { i.Address = "10.0.0.1:80" }, "neither an IP address nor a host name"},
	} {
		t.Run(name, func(t *testing.T) {
			i := good()
			c.spoil(i)
			err := i.Check()
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestCheckClusterName(t *testing.T) {
	for s, ok := range map[string]bool{
		"east": true, "eu-2": true, "1": true, strings.Repeat("a", 63): true,
		"": false, "East": false, "-a": false, "a-": false, "a.b": false, "a/b": false, "ä": false, strings.Repeat("a", 64): false,
	} {
		if err := CheckClusterName(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for s, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9:80": true, "::1": true, "[::1]:80": true, "localhost:80": true, "a.localhost": true,
		"10.0.0.1": false, "example.com:80": false, "localhost.example.com": false, "": false, "::ffff:127.0.0.1": true,
	} {
		if IsLoopback(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestEqualSeesEveryFieldButTheRevision(t *testing.T) {
	changes := map[string]func(*Instance){
		"cluster": func(i *Instance) { i.Cluster = "x" }, "namespace": func(i *Instance) { i.Namespace = "x" },
		"service": func(i *Instance) { i.Service = "x" }, "id": func(i *Instance) { i.Instance = "x" },
		"node": func(i *Instance) { i.Node = "x" }, "region": func(i *Instance) { i.Locality.Region = "x" },
		"zone": func(i *Instance) { i.Locality.Zone = "x" }, "address": func(i *Instance) { i.Address = "x" },
		"port": func(i *Instance) { i.Port = 1 }, "relay": func(i *Instance) { i.Relay = "x" },
		"weight": func(i *Instance) { i.Weight = 9 }, "health": func(i *Instance) { i.Health = Draining },
		"registry": func(i *Instance) { i.Registry = "x" }, "metadata value": func(i *Instance) { i.Metadata["k"] = "x" },
		"metadata key": func(i *Instance) { i.Metadata = map[string]string{"x": "v"} }, "metadata size": func(i *Instance) { i.Metadata = nil },
	}
	for name, change := range changes {
		i := good()
		i.Metadata = maps.Clone(i.Metadata)
		if change(i); i.Equal(good()) {
			t.Errorf("a change of the %s is not seen", name)
		}
	}
	i := good()
	if i.Revision = "x"; !i.Equal(good()) {
		t.Error("a registry that rewrote a record without changing it has changed nothing")
	}
}

func TestProtoRoundTrip(t *testing.T) {
	i := good()
	i.Relay, i.Registry, i.Revision, i.Locality = "10.0.0.1:50002", "consul", "17", Locality{"eu", "eu-1"}
	b, err := proto.Marshal(i.Proto())
	if err != nil {
		t.Fatal(err)
	}
	var p catalogv1.Instance
	if err := proto.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	if again := InstanceFromProto(&p); !again.Equal(i) || again.Revision != i.Revision {
		t.Errorf("got %+v, want %+v", again, i)
	}
	p.Health = 99
	if h := InstanceFromProto(&p).Health; h != Unhealthy {
		t.Errorf("a health of a newer version reads as %v", h)
	}
}

func TestWords(t *testing.T) {
	for h := Unknown; h <= Disabled; h++ {
		if again, err := ParseHealth(h.String()); err != nil || again != h {
			t.Errorf("%v: %v %v", h, again, err)
		}
		if got := catalogv1.Health(h).String(); got != h.String() {
			t.Errorf("the API calls %s %s", h, got)
		}
	}
	if _, err := ParseHealth("healthy"); err == nil || !strings.Contains(err.Error(), "HEALTHY") {
		t.Errorf("a case variant: %v", err)
	}
	for s := StateUnknown; s <= StateRemoved; s++ {
		if got := strings.TrimPrefix(s.Proto().String(), "CLUSTER_STATE_"); got != s.String() {
			t.Errorf("the API calls %s %s", s, got)
		}
	}
}
