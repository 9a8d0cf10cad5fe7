package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// What only a registry's own room can tell of its block is told with its line, like all else.
func TestMistakesThatARegistrysRoomKnows(t *testing.T) {
	text := `federation: demo
clusters:
- name: a
  resolvers:
  - kubernetes:
      exportSelector: "a in ("
      exportNamespaces: [shop]
      watchNamespaces: [other]
  - dns: {services: {ok: {name: "bad..name.", type: srv}}}
  - dns: {serivces: {ok: ok.example.}}
  - file: {path: x}
`
	_, err := config.ParseSynchronizer("f.yaml", []byte(text), CheckResolver)
	if err == nil {
		t.Fatal("no mistake was found")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		"f.yaml:5: clusters[0].resolvers[0].kubernetes: exportSelector: ",
		"f.yaml:5: clusters[0].resolvers[0].kubernetes: exportNamespaces: ",
		"f.yaml:9: clusters[0].resolvers[1].dns: services[ok]: ",
		"f.yaml:10: clusters[0].resolvers[2].dns.serivces: unknown key", // and not that there are no services
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d of %q: want %q", i+1, lines, want)
		}
	}
	if len(lines) != 4 {
		t.Errorf("%d lines, want 4", len(lines))
	}
}

// none is a Sink that takes nothing: a registry that cannot be made says nothing to it.
type none struct{ t *testing.T }

func (n none) Publish(catalog.Update) { n.t.Error("Publish was called") }
func (n none) Confirm()               { n.t.Error("Confirm was called") }
func (n none) Failed(err error)       { n.t.Errorf("Failed was called: %v", err) }

// A file that is missing or broken fails its registry, for as long as it is so, and nothing else.
func TestABrokenFileFailsItsRegistryOnly(t *testing.T) {
	dir := t.TempDir()
	kubeconfig, ca := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "ca.pem")
	kinds := newRegistries(testkit.Log(t), prometheus.NewRegistry())
	in, err := kinds.intake("a", []config.Resolver{
		{Kubernetes: &config.Kubernetes{Kubeconfig: kubeconfig}},
		{Consul: &config.Consul{Address: "127.0.0.1:1", TLS: &config.TLS{CA: ca}, DaprPortKey: "DAPR_PORT"}},
	}, config.Guard{Hold: 1})
	if err != nil {
		t.Fatalf("the daemon cannot start: %v", err)
	}
	for i, file := range []string{kubeconfig, ca} {
		res := in.Registries[i].Resolver
		for range 2 { // it is run again, as its owner does
			if err := res.Run(testkit.Context(t), none{t}); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: %v, want an error that names the file", in.Registries[i].Name, err)
			}
		}
	}
	if err := os.WriteFile(kubeconfig, []byte("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan error, 100)
	go func() { told <- in.Registries[0].Resolver.Run(ctx, failures{told}) }()
	if err := <-told; !strings.Contains(err.Error(), "refused") {
		t.Errorf("after the file was mended: %v, want that nobody listens", err)
	}
	cancel()
	for err := range told {
		if err == context.Canceled {
			break
		}
	}
}

// failures takes what fails.
type failures struct{ told chan error }

var _ resolvers.Sink = failures{}

func (failures) Publish(catalog.Update) {}
func (failures) Confirm()               {}
func (f failures) Failed(err error)     { f.told <- err }
