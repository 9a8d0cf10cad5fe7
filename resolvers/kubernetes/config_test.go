package kubernetes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/farcall/farcall/internal/testkit"
)

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		says []string // none: valid
	}{
		{name: "in a pod, all defaults"},
		{name: "everything", cfg: Config{
			Kubeconfig: "k", Context: "c", WatchNamespaces: []string{"shop", "team-a"}, ExportSelector: "a in (b, c), !d",
			ExportNamespaces: []string{"team-*"}, Regions: true,
		}},
		{name: "everything is wrong", cfg: Config{
			Context: "c", WatchNamespaces: []string{"Shop", "a", "a"}, ExportSelector: "a in b", ExportNamespaces: []string{"[", "prod"},
		}, says: []string{
			`context "c" without kubeconfig`, `exportSelector: "a in b"`, `watchNamespaces: "Shop"`, `watchNamespaces: "a" is there twice`,
			`exportNamespaces: pattern "["`, `exportNamespaces: "prod" matches none of watchNamespaces (Shop, a, a)`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cfg.Validate()
			if (err == nil) != (tt.says == nil) {
				t.Fatalf("it says %v", err)
			}
			for _, words := range tt.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("it does not say %q:\n%v", words, err)
				}
			}
		})
	}
}

// New says what is wrong with the files, too, and connects to nothing.
func TestNew(t *testing.T) {
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := testkit.Kubeconfig{Server: "https://127.0.0.1:1", Token: "secret"}.Write(t)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, tt := range []struct {
		name string
		cfg  Config
		says string // empty: no error
	}{
		{"good", Config{Kubeconfig: good}, ""},
		{"its context", Config{Kubeconfig: good, Context: "test"}, ""},
		{"another context", Config{Kubeconfig: good, Context: "prod"}, `context "prod" does not exist`},
		{"no file", Config{Kubeconfig: "/none"}, "kubeconfig /none: "},
		{"no kubeconfig", Config{Kubeconfig: write("k", "x: [")}, "kubeconfig "},
		{"no CA", Config{Kubeconfig: testkit.Kubeconfig{Server: "https://127.0.0.1:1", CA: "/none"}.Write(t)}, "/none"},
		{"an empty CA", Config{Kubeconfig: testkit.Kubeconfig{Server: "https://127.0.0.1:1", CA: write("ca", "x")}.Write(t)}, "certificates"},
		{"no pod", Config{}, "no kubeconfig is configured, and this is no pod"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg, deps(t))
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the token is in %v", err)
			}
		})
	}
	t.Run("a pod without a token", func(t *testing.T) {
		t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
		t.Setenv("KUBERNETES_SERVICE_PORT", "1")
		if _, err := New(Config{}, deps(t)); err == nil || !strings.Contains(err.Error(), "automountServiceAccountToken") {
			t.Errorf("got %v", err)
		}
	})
}

// What client-go has to say goes where our own log goes, and not to stderr.
func TestClientGoDoesNotWriteToStderr(t *testing.T) {
	if _, err := New(Config{Kubeconfig: testkit.Kubeconfig{Server: "https://127.0.0.1:1"}.Write(t)}, deps(t)); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stderr := os.Stderr
	os.Stderr = file
	klog.Error("said by klog")
	klog.Background().Error(errors.New("x"), "said by its logger")
	klog.Flush()
	os.Stderr = stderr
	text, err := os.ReadFile(file.Name())
	if err != nil || len(text) > 0 {
		t.Errorf("%v, %s", err, text)
	}
}

func TestSeen(t *testing.T) {
	services, slices := &table{resource: "services"}, &table{resource: "endpointslices"}
	at := func(a, b string) map[*table]string { return map[*table]string{services: a, slices: b} }
	var s seen
	if reason := s.compare(at("5", "7"), "uid-1"); reason != "" {
		t.Errorf("nothing was known: %q", reason)
	}
	s.replace(at("5", "7"), "uid-1")
	s.note("services", "10")
	s.note("services", "9")
	s.note("services", "no number")
	if got := s.revision(); got != "10" {
		t.Errorf("the revision is %s", got)
	}
	for _, tt := range []struct {
		name, cluster, says string
		at                  map[*table]string
	}{
		{"later", "uid-1", "", at("11", "100")},
		{"the same", "uid-1", "", at("10", "7")},
		{"a namespace that is not read", "", "", at("10", "7")},
		{"versions that are no numbers", "uid-1", "", at("a", "b")},
		{"backwards", "uid-1", "services went backwards, from 10 to 9", at("9", "100")},
		{"another cluster", "uid-2", "uid-1 and is uid-2", at("11", "100")},
	} {
		if reason := s.compare(tt.at, tt.cluster); (tt.says == "") != (reason == "") || !strings.Contains(reason, tt.says) {
			t.Errorf("%s: %q, want %q", tt.name, reason, tt.says)
		}
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.resets.WithLabelValues("east/kubernetes").Inc()
	m.events.WithLabelValues("east/kubernetes", "services", "added").Inc()
	m.requests.WithLabelValues("east/kubernetes", "list", "services", "ok").Inc()
	families, err := reg.Gather()
	if err != nil || len(families) != 3 {
		t.Errorf("%d families, %v", len(families), err)
	}
}
