package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// The sample of the design, with what this version takes of it.
const sampleSynchronizer = `
federation: demo
listen: 127.0.0.1:7700   # gRPC: admin and feed
http: {listen: 127.0.0.1:7701} # metrics, health
store:
  embedded: {dataDir: ./farcall-data}
clusters:
  - name: east
    locality: {region: eu, zone: eu-1}
    labels: {tier: gold}
    resolvers:
      - consul: {address: 127.0.0.1:8500}
  - name: legacy
    resolvers:
      - file: {path: ./legacy.yaml, namespace: old, include: [bill*], exclude: [billing-test]}
      - consul: {address: "https://consul:8501", datacenter: dc2, tokenFile: /run/token, tls: {cert: c.pem, key: k.pem, ca: ca.pem}, daprPortKey: RELAY, namespaces: {theirs: ours}}
guard: {hold: 90s}
tls: {cert: cert.pem, key: key.pem, ca: ca.pem}
`

const sampleAgent = `
cluster: east
node: node-1
locality: {region: eu, zone: eu-1}
synchronizers: [127.0.0.1:7700]
dataDir: ./farcall-agent
resolvers:
  - consul: {address: 127.0.0.1:8500, token: very-secret}
internal: {listen: "127.0.0.1:0", advertise: 127.0.0.1}
http: {listen: unix:///run/farcall/http.sock}
grpc: {listen: 127.0.0.1:50001}
dapr: {listen: "10.0.0.1:50003", insecure: true, announce: {interfaces: [eth1]}}
metrics: {listen: 0.0.0.0:9464, tls: {cert: web.pem, key: web-key.pem, ca: scrapers.pem}}
tls: {workloadAPI: "unix:///run/spire/agent.sock", plaintextRelays: [legacy]}
strategy: remote
accessLog: all
apps:
  - {id: cart, port: 8080, protocol: http, namespace: default, register: true}
  - {id: cart, port: 8081, protocol: grpc, namespace: shop}
  - {id: till, protocol: dapr}
  - {id: bank, protocol: https, token: very-secret-too, tls: {ca: ca.pem, cert: c.pem, key: k.pem, serverName: bank.example}}
  - {id: audit, protocol: grpc, tokenFile: /run/audit, tls: {insecure: true}}
`

func TestSynchronizerSample(t *testing.T) {
	got, err := ParseSynchronizer("s.yaml", []byte(sampleSynchronizer))
	if err != nil {
		t.Fatal(err)
	}
	want := &Synchronizer{
		Federation: "demo",
		Listen:     "127.0.0.1:7700",
		HTTP:       Listener{Listen: "127.0.0.1:7701"},
		Store:      Store{Embedded: &Embedded{DataDir: "./farcall-data"}},
		Clusters: []Cluster{
			{
				Name: "east", Locality: Locality{Region: "eu", Zone: "eu-1"}, Labels: map[string]string{"tier": "gold"},
				Resolvers: []Resolver{{Consul: &Consul{
					Address: "127.0.0.1:8500", DaprPortKey: "DAPR_PORT",
					Scope: Scope{Namespace: "default", Exclude: []string{"consul", "*-sidecar-proxy"}},
				}}},
			},
			{
				Name: "legacy",
				Resolvers: []Resolver{
					{File: &File{Path: "./legacy.yaml", Scope: Scope{Namespace: "old", Include: []string{"bill*"}, Exclude: []string{"billing-test"}}}},
					{Consul: &Consul{
						Address: "https://consul:8501", Datacenter: "dc2", TokenFile: "/run/token", DaprPortKey: "RELAY",
						TLS:   &TLS{Cert: "c.pem", Key: "k.pem", CA: "ca.pem"},
						Scope: Scope{Namespaces: map[string]string{"theirs": "ours"}, Exclude: []string{"consul", "*-sidecar-proxy"}},
					}},
				},
			},
		},
		Guard: Guard{Hold: 90 * time.Second},
		TLS:   &Identity{Cert: "cert.pem", Key: "key.pem", CA: "ca.pem"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got.Effective(), want.Effective())
	}
	kinds := []string{want.Clusters[1].Resolvers[0].Kind(), want.Clusters[1].Resolvers[1].Kind(), Resolver{}.Kind()}
	if !slices.Equal(kinds, []string{"file", "consul", ""}) {
		t.Errorf("kinds are %q", kinds)
	}
	if ns := want.Clusters[1].Resolvers[0].Scope().Namespace; ns != "old" {
		t.Errorf("the file's scope is in namespace %q", ns)
	}
	if to := want.Clusters[1].Resolvers[1].Scope().Namespaces["theirs"]; to != "ours" {
		t.Errorf("the Consul's scope maps theirs to %q", to)
	}
}

func TestAgentSample(t *testing.T) {
	got, err := ParseAgent("a.yaml", []byte(sampleAgent))
	if err != nil {
		t.Fatal(err)
	}
	want := &Agent{
		Cluster: "east", Node: "node-1", Locality: Locality{Region: "eu", Zone: "eu-1"},
		Synchronizers: []string{"127.0.0.1:7700"},
		DataDir:       "./farcall-agent",
		Resolvers: []Resolver{{Consul: &Consul{
			Address: "127.0.0.1:8500", Token: "very-secret", DaprPortKey: "DAPR_PORT",
			Scope: Scope{Namespace: "default", Exclude: []string{"consul", "*-sidecar-proxy"}},
		}}},
		Internal: Internal{Listen: "127.0.0.1:0", Advertise: "127.0.0.1"},
		HTTP:     Listener{Listen: "unix:///run/farcall/http.sock"},
		GRPC:     Listener{Listen: "127.0.0.1:50001"},
		Dapr:     &Dapr{Listen: "10.0.0.1:50003", Insecure: true, Announce: &Announce{Interfaces: []string{"eth1"}}},
		Metrics:  Listener{Listen: "0.0.0.0:9464", TLS: &ServerTLS{Cert: "web.pem", Key: "web-key.pem", CA: "scrapers.pem"}},
		Apps: []App{
			{ID: "cart", Namespace: "default", Port: 8080, Protocol: "http", Register: true},
			{ID: "cart", Namespace: "shop", Port: 8081, Protocol: "grpc"},
			{ID: "till", Namespace: "default", Protocol: "dapr"},
			{
				ID: "bank", Namespace: "default", Protocol: "https", Token: "very-secret-too",
				TLS: &AppTLS{CA: "ca.pem", Cert: "c.pem", Key: "k.pem", ServerName: "bank.example"},
			},
			{ID: "audit", Namespace: "default", Protocol: "grpc", TokenFile: "/run/audit", TLS: &AppTLS{Insecure: true}},
		},
		Strategy: string(strategy.ExternalFirst), AccessLog: "all",
		Guard: Guard{Hold: time.Minute},
		TLS:   &AgentIdentity{WorkloadAPI: "unix:///run/spire/agent.sock", PlaintextRelays: []string{"legacy"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got.Effective(), want.Effective())
	}
	if n, a := got.HTTP.Network(); n != "unix" || a != "/run/farcall/http.sock" {
		t.Errorf("http listens on %s %s", n, a)
	}
	if n, a := got.GRPC.Network(); n != "tcp" || a != "127.0.0.1:50001" {
		t.Errorf("grpc listens on %s %s", n, a)
	}
}

func TestLeftOutKeysTakeTheDesignsDefaults(t *testing.T) {
	s, err := ParseSynchronizer("s.yaml", []byte("federation: demo\n"))
	if err != nil {
		t.Fatal(err)
	}
	wantS := &Synchronizer{
		Federation: "demo", Listen: "127.0.0.1:7700", HTTP: Listener{Listen: "127.0.0.1:7701"},
		Store: Store{Embedded: &Embedded{DataDir: "./farcall-data"}},
		Guard: Guard{Hold: time.Minute},
	}
	if !reflect.DeepEqual(s, wantS) {
		t.Errorf("synchronizer: got\n%s", s.Effective())
	}
	a, err := ParseAgent("a.yaml", []byte("cluster: east\nsynchronizers: [localhost:7700]\nresolvers:\napps:\n- id: cart\n"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	wantA := &Agent{
		Cluster: "east", Node: host, Synchronizers: []string{"localhost:7700"},
		Internal: Internal{Listen: "127.0.0.1:0"},
		HTTP:     Listener{Listen: "127.0.0.1:3500"},
		GRPC:     Listener{Listen: "127.0.0.1:50001"},
		Metrics:  Listener{Listen: "127.0.0.1:9464"},
		Apps:     []App{{ID: "cart", Namespace: "default", Protocol: "http"}},

		AccessLog: "errors", Guard: Guard{Hold: time.Minute},
	}
	if !reflect.DeepEqual(a, wantA) {
		t.Errorf("agent: got\n%s", a.Effective())
	}
	embedded, err := ParseSynchronizer("s.yaml", []byte("federation: demo\nstore:\n  embedded:\nclusters: [{name: a, resolvers: [consul: ]}]"))
	if err != nil {
		t.Fatal(err)
	}
	if embedded.Store.Embedded.DataDir != "./farcall-data" || embedded.Clusters[0].Resolvers[0].Consul.Address != "127.0.0.1:8500" {
		t.Errorf("kinds without a block: got\n%s", embedded.Effective())
	}
}

// What --check-config prints is itself a configuration that says the same.
func TestEffectiveReadsBackTheSame(t *testing.T) {
	external := strings.Replace(sampleSynchronizer, "embedded: {dataDir: ./farcall-data}",
		"etcd: {endpoints: [127.0.0.1:2379, 'https://b:2379'], tls: {}}\ndataDir: ./farcall-sync", 1)
	for _, text := range []string{sampleSynchronizer, external, "federation: f", "federation: f\nlisten: :7700\ninsecure: true"} {
		s, err := ParseSynchronizer("s.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSynchronizer("effective.yaml", s.Effective())
		if err != nil {
			t.Fatalf("%v in\n%s", err, s.Effective())
		}
		if !reflect.DeepEqual(again, s) {
			t.Errorf("synchronizer\n%s\nread back as\n%s", s.Effective(), again.Effective())
		}
	}
	tokens := "cluster: c\nsynchronizers: ['[::1]:1']\napps: [{id: a, token: very-secret}, {id: b, token: very-secret-too}]"
	for _, text := range []string{sampleAgent, tokens, "cluster: c\nsynchronizers: ['[::1]:1']", "cluster: c\nsynchronizers: [localhost:1]\naccessLog: off"} {
		text = strings.NewReplacer("very-secret-too", redacted, "very-secret", redacted).Replace(text)
		a, err := ParseAgent("a.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseAgent("effective.yaml", a.Effective())
		if err != nil {
			t.Fatalf("%v in\n%s", err, a.Effective())
		}
		if !reflect.DeepEqual(again, a) {
			t.Errorf("agent\n%s\nread back as\n%s", a.Effective(), again.Effective())
		}
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	a, err := ParseAgent("a.yaml", []byte(sampleAgent))
	if err != nil {
		t.Fatal(err)
	}
	secret := a.Resolvers[0].Consul.Token
	if secret.Value() != "very-secret" {
		t.Fatalf("the secret's value is %q", secret.Value())
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("hello", "token", secret, "consul", a.Resolvers[0].Consul)
	asJSON, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	prints := []string{
		string(a.Effective()), string(asJSON), log.String(),
		fmt.Sprintf("%v %+v %#v %s %q %x %d", secret, secret, secret, secret, secret, secret, secret),
		fmt.Sprintf("%v %+v %#v", *a.Resolvers[0].Consul, *a.Resolvers[0].Consul, *a.Resolvers[0].Consul),
	}
	for _, text := range prints {
		if strings.Contains(text, "very-secret") || strings.Contains(text, fmt.Sprintf("%x", "very-secret")) {
			t.Errorf("the secret stands in %s", text)
		}
		if !strings.Contains(text, "redacted") {
			t.Errorf("nothing says that there is a secret in %s", text)
		}
	}
	if Secret("").String() != "" {
		t.Error("no secret looks like one")
	}
	// A mistake about a secret does not repeat it either.
	for _, wrong := range []string{"12345678", "[hush]", "{hush: 1}"} {
		_, err := ParseAgent("a.yaml", []byte("cluster: c\nsynchronizers: [localhost:1]\nresolvers: [consul: {token: "+wrong+"}]"))
		if err == nil || strings.Contains(err.Error(), "1234") || strings.Contains(err.Error(), "hush") {
			t.Errorf("token %s: error %v", wrong, err)
		}
	}
}

func TestReadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "farcall.yaml")
	if err := os.WriteFile(file, []byte("federation: Demo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ReadSynchronizer(file)
	if err == nil || !strings.HasPrefix(err.Error(), file+":1: federation: ") {
		t.Errorf("a wrong file: error %v", err)
	}
	if _, err = ReadAgent(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: error %v", err)
	}
	if _, err = ReadSynchronizer(dir); err == nil {
		t.Error("a folder is no configuration, but was read")
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("#", maxSize+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = ReadAgent(file); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("a huge file: error %v", err)
	}
	if err := os.WriteFile(file, []byte("cluster: c\nsynchronizers: [localhost:1]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := ReadAgent(file); err != nil || a.Cluster != "c" {
		t.Errorf("a good file: %v, error %v", a, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sampleSynchronizer))
	f.Add([]byte(sampleAgent))
	for _, c := range mistakes {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSynchronizer("f.yaml", data)
		if (s == nil) == (err == nil) {
			t.Fatalf("neither a configuration nor an error, or both: %v, %v", s, err)
		}
		if err == nil {
			if again, err := ParseSynchronizer("f.yaml", s.Effective()); err != nil {
				t.Fatalf("effective\n%s\nof\n%s\ndoes not read back: %v", s.Effective(), data, err)
			} else if !reflect.DeepEqual(s.hush(), again.hush()) {
				t.Fatalf("effective\n%s\nof\n%s\nreads back as\n%s", s.Effective(), data, again.Effective())
			}
		} else {
			oneLineEach(t, err)
		}
		if _, err := ParseAgent("f.yaml", data); err != nil {
			oneLineEach(t, err)
		}
	})
}

// hush replaces secrets by what Effective shows of them.
func (s *Synchronizer) hush() *Synchronizer {
	for _, c := range s.Clusters {
		for _, r := range c.Resolvers {
			if r.Consul != nil {
				r.Consul.Token = Secret(r.Consul.Token.String())
			}
		}
	}
	return s
}

// oneLineEach holds an error to its promise: every line names the file.
func oneLineEach(t *testing.T, err error) {
	t.Helper()
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(line, "f.yaml:") {
			t.Fatalf("a line of an error names no file: %q in\n%v", line, err)
		}
	}
}
