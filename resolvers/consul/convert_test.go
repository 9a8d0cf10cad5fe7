package consul

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/internal/catalog"
)

func checks(words ...string) api.HealthChecks {
	var out api.HealthChecks
	for _, w := range words {
		id, status, _ := strings.Cut(w, "=")
		c := &api.HealthCheck{CheckID: id, Status: status}
		if id != "serfHealth" && id != api.NodeMaint {
			c.ServiceID = "web-1"
		}
		out = append(out, c)
	}
	return out
}

func TestHealthAndWeight(t *testing.T) {
	weights := api.AgentWeights{Passing: 10, Warning: 2}
	for _, c := range []struct {
		name   string
		checks api.HealthChecks
		health catalog.Health
		weight uint32
	}{
		{"no check at all", nil, catalog.Unknown, 10},
		{"only the node's, passing", checks("serfHealth=passing"), catalog.Healthy, 10},
		{"only the node's, critical", checks("serfHealth=critical"), catalog.Unhealthy, 10},
		{"passing", checks("serfHealth=passing", "c=passing"), catalog.Healthy, 10},
		{"one warning", checks("serfHealth=passing", "c=warning", "d=passing"), catalog.Healthy, 2},
		{"critical beats warning", checks("c=warning", "d=critical"), catalog.Unhealthy, 10},
		{"the node's critical beats passing", checks("serfHealth=critical", "c=passing"), catalog.Unhealthy, 10},
		{"service maintenance beats all", checks("_service_maintenance:web-1=critical", "c=critical"), catalog.Disabled, 10},
		{"node maintenance", checks("_node_maintenance=critical", "c=passing"), catalog.Disabled, 10},
		{"a word that Consul does not have", checks("c=splendid"), catalog.Unhealthy, 10},
		{"a check that is null", api.HealthChecks{nil}, catalog.Unknown, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := healthOf(c.checks); got != c.health {
				t.Errorf("health %v, want %v", got, c.health)
			}
			if got, err := weightOf(weights, statusOf(c.checks)); got != c.weight || err != nil {
				t.Errorf("weight %d, %v, want %d", got, err, c.weight)
			}
		})
	}
}

func TestWeightBounds(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights api.AgentWeights
		status  string
		want    uint32
		fails   bool
	}{
		{"not stated", api.AgentWeights{}, "passing", 1, false},
		{"not stated, warning", api.AgentWeights{}, "warning", 1, false},
		{"none while warning", api.AgentWeights{Passing: 5}, "warning", 0, false},
		{"negative", api.AgentWeights{Passing: -1, Warning: 1}, "passing", 0, true},
		{"beyond any", api.AgentWeights{Passing: catalog.MaxInstanceWeight + 1}, "passing", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := weightOf(c.weights, c.status); got != c.want || (err != nil) != c.fails {
				t.Errorf("weightOf = %d, %v; want %d, failing %v", got, err, c.want, c.fails)
			}
		})
	}
}

func entry(node, id string, change ...func(*api.ServiceEntry)) *api.ServiceEntry {
	e := &api.ServiceEntry{
		Node:    &api.Node{Node: node, Address: "10.0.0.1"},
		Service: &api.AgentService{Service: "web", ID: id, Port: 80, CreateIndex: 5, ModifyIndex: 7},
	}
	for _, f := range change {
		f(e)
	}
	return e
}

func meta(kv ...string) func(*api.ServiceEntry) {
	return func(e *api.ServiceEntry) {
		e.Service.Meta = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			e.Service.Meta[kv[i]] = kv[i+1]
		}
	}
}

func address(a string) func(*api.ServiceEntry) {
	return func(e *api.ServiceEntry) { e.Service.Address = a }
}

func created(index uint64) func(*api.ServiceEntry) {
	return func(e *api.ServiceEntry) { e.Service.CreateIndex = index }
}

// TestConvert shows what becomes of one service: its names, instances and records set aside.
func TestConvert(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []*api.ServiceEntry
		want    []string // names, then instances, then what is set aside
	}{
		{"nothing", nil, nil},
		{"the node's address where the service has none", []*api.ServiceEntry{entry("n1", "a")},
			[]string{"/web", "a on n1 10.0.0.1:80 relay= rev=7"}},
		{"the service's own address", []*api.ServiceEntry{entry("n1", "a", address("10.9.9.9"))},
			[]string{"/web", "a on n1 10.9.9.9:80 relay= rev=7"}},
		{"Dapr's port", []*api.ServiceEntry{entry("n1", "a", meta("DAPR_PORT", "50002"))},
			[]string{"/web", "a on n1 10.0.0.1:80 relay=10.0.0.1:50002 rev=7"}},
		{"Dapr's port at an IPv6 address", []*api.ServiceEntry{entry("n1", "a", address("fd00::1"), meta("DAPR_PORT", "50002"))},
			[]string{"/web", "a on n1 fd00::1:80 relay=[fd00::1]:50002 rev=7"}},
		{"a port that is none", []*api.ServiceEntry{entry("n1", "a", meta("DAPR_PORT", "http")), entry("n2", "b")},
			[]string{"/web", "b on n2 10.0.0.1:80 relay= rev=7", `aside web/a on n1: metadata DAPR_PORT: port "http" is not in 1 to 65535`}},
		{"a port too large", []*api.ServiceEntry{entry("n1", "a", meta("DAPR_PORT", "70000"))},
			[]string{"/web", `aside web/a on n1: metadata DAPR_PORT: port "70000" is not in 1 to 65535`}},
		{"an empty port", []*api.ServiceEntry{entry("n1", "a", meta("DAPR_PORT", ""))},
			[]string{"/web", `aside web/a on n1: metadata DAPR_PORT: port "" is not in 1 to 65535`}},
		{"a namespace of its own", []*api.ServiceEntry{entry("n1", "a", meta("farcall-namespace", "shop")), entry("n2", "a")},
			[]string{"/web", "shop/web", "a on n2 10.0.0.1:80 relay= rev=7", "a on n1 10.0.0.1:80 relay= rev=7"}},
		{"one id on several nodes: the oldest keeps it", []*api.ServiceEntry{
			entry("n1", "a", created(9)), entry("n2", "a", created(3)), entry("n3", "a", created(9))},
			[]string{"/web", "a on n2 10.0.0.1:80 relay= rev=7", "a@n1 on n1 10.0.0.1:80 relay= rev=7", "a@n3 on n3 10.0.0.1:80 relay= rev=7"}},
		{"an id that looks like another's on a node", []*api.ServiceEntry{
			entry("n1", "a", created(1)), entry("n3", "a@n2", created(2)), entry("n2", "a", created(3))},
			[]string{"/web", "a on n1 10.0.0.1:80 relay= rev=7", "a@n2 on n3 10.0.0.1:80 relay= rev=7", "aside web/a on n2: id a@n2 is taken by another instance"}},
		{"another spelling is another service", []*api.ServiceEntry{entry("n1", "a", func(e *api.ServiceEntry) { e.Service.Service = "WEB" })}, nil},
		{"proxies and gateways are no instances", []*api.ServiceEntry{
			entry("n1", "p", func(e *api.ServiceEntry) { e.Service.Kind = api.ServiceKindConnectProxy }),
			entry("n1", "g", func(e *api.ServiceEntry) { e.Service.Kind = api.ServiceKindAPIGateway })}, nil},
		{"a weight that is none", []*api.ServiceEntry{entry("n1", "a", func(e *api.ServiceEntry) { e.Service.Weights.Passing = -5 })},
			[]string{"/web", "aside web/a on n1: weight -5 is not in 0 to 65536"}},
		{"nonsense that its reader tells", []*api.ServiceEntry{entry("n1", "a", func(e *api.ServiceEntry) { e.Service.Port = 70000 })},
			[]string{"/web", "a on n1 10.0.0.1:70000 relay= rev=7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lines(convert("web", "DAPR_PORT", 1, c.entries).snap); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			slices.Reverse(c.entries)
			if got := lines(convert("web", "DAPR_PORT", 1, c.entries).snap); !slices.Equal(got, c.want) {
				t.Errorf("in another order it becomes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func lines(s catalog.Snapshot) []string {
	var out []string
	for _, n := range s.Services {
		out = append(out, n.String())
	}
	for _, i := range s.Instances {
		out = append(out, fmt.Sprintf("%s on %s %s:%d relay=%s rev=%s", i.Instance, i.Node, i.Address, i.Port, i.Relay, i.Revision))
	}
	for _, a := range s.SetAside {
		out = append(out, "aside "+a.String())
	}
	return out
}

func TestConvertLocality(t *testing.T) {
	east, west := &api.Locality{Region: "eu", Zone: "east"}, &api.Locality{Region: "eu", Zone: "west"}
	for _, c := range []struct {
		name          string
		service, node *api.Locality
		want          catalog.Locality
	}{
		{"none", nil, nil, catalog.Locality{}},
		{"the node's", nil, west, catalog.Locality{Region: "eu", Zone: "west"}},
		{"the service's is nearer", east, west, catalog.Locality{Region: "eu", Zone: "east"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := convert("web", "DAPR_PORT", 1, []*api.ServiceEntry{entry("n1", "a", func(e *api.ServiceEntry) {
				e.Service.Locality, e.Node.Locality = c.service, c.node
			})})
			if got := s.snap.Instances[0].Locality; got != c.want {
				t.Errorf("locality %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestAskable(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "a b": true, "a/b": true, "ü": true, "a%2fb": true, "a?b": true, "...": true,
		"": false, ".": false, "..": false, "a//b": false, "a/../b": false, "/a": false, "a/": false,
		strings.Repeat("n", catalog.MaxNameLength): true, strings.Repeat("n", catalog.MaxNameLength+1): false,
	} {
		if askable(name) != want {
			t.Errorf("askable(%q) = %v", name, !want)
		}
	}
}

// FuzzConvert: whatever Consul answers, nothing panics, identities are unique, the order is
// the identities', and every registration is an instance, set aside, or not this service's.
func FuzzConvert(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[null]`, `[{}]`, `[{"Node":{},"Service":{}}]`,
		`[{"Node":{"Node":"n1","Address":"10.0.0.1"},"Service":{"ID":"a","Service":"web","Port":80,"Meta":{"DAPR_PORT":"50002"},"Weights":{"Passing":1,"Warning":1}},"Checks":[{"CheckID":"serfHealth","Status":"passing"}]}]`,
		`[{"Node":{"Node":"n1"},"Service":{"ID":"a","Service":"web"}},{"Node":{"Node":"n2"},"Service":{"ID":"a","Service":"web","Meta":{"farcall-namespace":"\u0000"}},"Checks":[null]}]`,
		`[{"Node":{"Node":"n1","Locality":{"Region":"r"}},"Service":{"ID":"a","Service":"web","Kind":"connect-proxy","Ports":[{"Port":-1,"Default":true}]}}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var entries []*api.ServiceEntry
		if json.Unmarshal(data, &entries) != nil || slices.ContainsFunc(entries, func(e *api.ServiceEntry) bool { return !whole(e) }) {
			return
		}
		own := 0
		for _, e := range entries {
			if e.Service.Service == "web" && e.Service.Kind == "" {
				own++
			}
		}
		s := convert("web", "DAPR_PORT", 1, entries).snap
		if n := len(s.Instances) + len(s.SetAside); n != own {
			t.Errorf("%d registrations became %d instances and records set aside", own, n)
		}
		for i := 1; i < len(s.Instances); i++ {
			if s.Instances[i-1].ID.Compare(s.Instances[i].ID) >= 0 {
				t.Errorf("%v stands before %v", s.Instances[i-1].ID, s.Instances[i].ID)
			}
		}
	})
}
