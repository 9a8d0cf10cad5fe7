package file

import (
	"fmt"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// The fixed format, as design and README state it.
const fixed = `services:
  - name: cart                  # app-id
    namespace: default          # optional
    instances:                  # [] empties the service
      - {id: cart-1, address: 10.0.0.5, port: 8080, node: node-1}        # port: the application's; relayed by node-1's agent
      - {id: cart-2, address: 10.0.0.6, relay: "10.0.0.6:50002", zone: eu-1, weight: 50, health: HEALTHY, metadata: {version: v2}}
`

func TestDecodeTheFixedFormat(t *testing.T) {
	snaps, err := decode("legacy.yaml", []byte(fixed))
	if err != nil {
		t.Fatal(err)
	}
	cart := catalog.Name{Namespace: "default", Service: "cart"}
	want := []*catalog.Instance{
		{ID: catalog.ID{Name: cart, Instance: "cart-1"}, Address: "10.0.0.5", Port: 8080, Node: "node-1", Weight: 1},
		{
			ID: catalog.ID{Name: cart, Instance: "cart-2"}, Address: "10.0.0.6", Relay: "10.0.0.6:50002", Weight: 50,
			Locality: catalog.Locality{Zone: "eu-1"}, Health: catalog.Healthy, Metadata: map[string]string{"version": "v2"},
		},
	}
	if len(snaps) != 1 || !catalog.EqualLists(snaps[0].Instances, want) {
		t.Errorf("decoded is %+v, want %v", snaps, want)
	}
	for _, i := range snaps[0].Instances {
		if err := i.Check(); err != nil {
			t.Errorf("%s: %v", i, err)
		}
	}
}

// golden gives what was decoded: "default/cart a:80 b:81; /pay".
func golden(snaps []catalog.Snapshot) string {
	var lines []string
	for _, s := range snaps {
		line := s.Services[0].String()
		for _, i := range s.Instances {
			line += fmt.Sprintf(" %s:%d", i.Instance, i.Port)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       string // golden
		mistake    string // with its line
	}{
		{name: "an empty list", file: "services: []", want: ""},
		{name: "an emptied service", file: "services:\n- {name: cart, instances: []}", want: "/cart"},
		{
			name: "entries of one service are one, with another between",
			file: "services:\n- {name: a, instances: [{id: x, port: 1}]}\n- {name: b, instances: []}\n- {name: a, instances: [{id: y, port: 2}, {id: x, port: 3}]}",
			want: "/a x:1 y:2 x:3; /b",
		},
		{
			name: "the same name in two namespaces is two services",
			file: "services:\n- {name: a, namespace: n, instances: [{id: x}]}\n- {name: a, instances: [{id: x}]}",
			want: "n/a x:0; /a x:0",
		},
		{name: "records that cannot be used are passed on", file: "services: [{name: a, instances: [{port: 70000}, {id: y, port: -1}, {}]}]", want: "/a :70000 y:-1 :0"},
		{name: "texts that look like other things", file: "services: [{name: 7, instances: [{id: true, node: 1.10, metadata: {v: 1.10}}]}]", want: "/7 true:0"},
		{name: "JSON", file: `{"services": [{"name": "a", "instances": [{"id": "x", "port": 80}]}]}`, want: "/a x:80"},

		{name: "an empty file", file: "", mistake: "f.yaml: the file is empty"},
		{name: "nothing but comments", file: "# later\n", mistake: "f.yaml: the file is empty"},
		{name: "a document of nothing", file: "---\n", mistake: ": the file: want a mapping of keys to values, got nothing"},
		{name: "no services key", file: "{}", mistake: "f.yaml:1: no services key"},
		{name: "services without a value", file: "services:\n", mistake: "f.yaml:1: services: want a list, got nothing; write [] for none"},
		{name: "instances without a value", file: "services:\n- name: a\n  instances:\n", mistake: "f.yaml:3: instances: want a list, got nothing; write [] for none"},
		{name: "no instances key", file: "services:\n- name: a\n", mistake: `f.yaml:2: service "a" has no instances key`},
		{name: "a list at the top", file: "- name: a", mistake: "f.yaml:1: the file: want a mapping of keys to values, got a list"},
		{name: "a brace that is not closed", file: "services:\n  - {name: a\n", mistake: "f.yaml:2: not YAML: did not find expected ',' or '}'"},
		{name: "a brace too many in the first line", file: "}", mistake: "f.yaml:1: not YAML: did not find"},
		{name: "two colons", file: "services: []\na: b: c", mistake: "f.yaml:2: not YAML: mapping values are not allowed"},
		{name: "two colons in the first line", file: "a: b: c", mistake: "f.yaml:1: not YAML: mapping values are not allowed"},
		{name: "a wrong indentation", file: "services:\n- name: a\n   instances: []\n", mistake: "f.yaml:3: not YAML: mapping values are not allowed"},
		{name: "an unknown anchor", file: "services: *s", mistake: "f.yaml: not YAML: unknown anchor"},
		{name: "a tab", file: "services:\n\t- name: a\n", mistake: "f.yaml:2: not YAML: "},
		{name: "not UTF-8", file: "services: [{name: \"\xff\"}]", mistake: "f.yaml: not YAML: "},
		{name: "two documents", file: "services: []\n---\nservices: []\n", mistake: "f.yaml:2: a second document begins"},
		{name: "a key twice", file: "services: []\nservices: []\n", mistake: `f.yaml:2: the file: key "services" is set twice, first in line 1`},
		{name: "an unknown key", file: "services:\n- name: a\n  instances:\n  - id: x\n    adress: 10.0.0.1\n", mistake: `f.yaml:5: an instance: unknown key "adress", nearest valid key: "address"`},
		{name: "an unknown key of a service", file: "services:\n- {Name: a, instances: []}\n", mistake: `f.yaml:2: a service: unknown key "Name", nearest valid key: "name"`},
		{name: "an unknown key of the file", file: "service: []\n", mistake: `f.yaml:1: the file: unknown key "service", nearest valid key: "services"`},
		{name: "a key that is no word", file: "services:\n- {[a]: b, name: a, instances: []}\n", mistake: "f.yaml:2: a service: a key must be a word, got a list"},
		{name: "a port that is no number", file: "services:\n- name: a\n  instances:\n  - {id: x, port: http}\n", mistake: `f.yaml:4: port: want a whole number, got "http"`},
		{name: "a port in quotes", file: `services: [{name: a, instances: [{port: "80"}]}]`, mistake: `f.yaml:1: port: want a whole number, got "80"`},
		{name: "a port beyond all numbers", file: "services: [{name: a, instances: [{port: 99999999999999999999}]}]", mistake: "f.yaml:1: port: want a whole number"},
		{name: "a weight below zero", file: "services: [{name: a, instances: [{weight: -1}]}]", mistake: "f.yaml:1: weight: -1 is not in 0 to 4294967295"},
		{name: "half a weight", file: "services: [{name: a, instances: [{weight: 0.5}]}]", mistake: `f.yaml:1: weight: want a whole number, got "0.5"`},
		{name: "an address that is a list", file: "services: [{name: a, instances: [{address: [x]}]}]", mistake: "f.yaml:1: address: want a text, got a list"},
		{name: "a key without a value", file: "services:\n- name: a\n  instances:\n  - id:\n    port: 80\n", mistake: "f.yaml:4: id: want a text, got nothing"},
		{name: "no name", file: "services:\n- instances: []\n", mistake: "f.yaml:2: the service has no name"},
		{name: "an empty name", file: "services:\n- {name: '', instances: []}\n", mistake: "f.yaml:2: name: service is empty"},
		{name: "an unknown health", file: "services: [{name: a, instances: [{health: healthy}]}]", mistake: `f.yaml:1: health: unknown health "healthy": want UNKNOWN, HEALTHY, UNHEALTHY, DRAINING, DISABLED`},
		{name: "metadata that is a list", file: "services: [{name: a, instances: [{metadata: [x]}]}]", mistake: "f.yaml:1: metadata: want a mapping of keys to values, got a list"},
		{name: "metadata inside metadata", file: "services: [{name: a, instances: [{metadata: {x: {y: z}}}]}]", mistake: "f.yaml:1: x: want a text, got a mapping"},
		{name: "a service that is a word", file: "services: [cart]", mistake: `f.yaml:1: a service: want a mapping of keys to values, got "cart"`},
		{name: "an alias", file: "services: [{name: &n a, instances: []}, {name: *n, instances: []}]", mistake: "f.yaml:1: name: want a text, got an alias"},
		{name: "all mistakes at once", file: "services:\n- {nam: a, instances: [{port: x}]}\n", mistake: `f.yaml:2: port: want a whole number, got "x"`},
		{name: "and no more than ten", file: "services: [" + strings.Repeat("x, ", 20) + "]", mistake: "; and 10 more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			snaps, err := decode("f.yaml", []byte(tt.file))
			if tt.mistake != "" {
				if err == nil || !strings.Contains(err.Error(), tt.mistake) {
					t.Errorf("decode says %v, want %q", err, tt.mistake)
				}
				if snaps != nil {
					t.Errorf("a bad file gave a list: %v", snaps)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := golden(snaps); got != tt.want {
				t.Errorf("decoded is %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(fixed))
	f.Add([]byte("services: []"))
	f.Add([]byte(""))
	f.Add([]byte("services: [{name: a, namespace: b, instances: [{id: x, port: 0x1F, weight: 1_0, health: DRAINING, region: r}]}]"))
	f.Add([]byte("services: &a [*a]\n"))
	f.Add([]byte("<<: {services: []}\n--- !!binary x"))
	f.Add([]byte("services: [{name: a, instances: [{port: 99999999999999999999, metadata: {a: !!int b}}]}]"))
	f.Add([]byte("%YAML 1.1\n---\n? [a]\n: {{{{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		snaps, err := decode("f.yaml", data)
		if err != nil {
			if snaps != nil {
				t.Error("a bad file gave a list")
			}
			return
		}
		seen := map[string]bool{}
		for _, s := range snaps {
			if seen[s.Source] || len(s.Services) != 1 || s.Source != s.Services[0].String() {
				t.Errorf("source %q of %v, want one per service", s.Source, s.Services)
			}
			seen[s.Source] = true
			for _, i := range s.Instances {
				if i.Name != s.Services[0] {
					t.Errorf("%s is listed under %s", i, s.Services[0])
				}
			}
		}
	})
}
