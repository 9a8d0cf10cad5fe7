//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// A configuration that cannot be used is refused at once, with exit code 2 and every mistake
// named; a machine that does not let it start, with exit code 1 and the reason.
func TestRefusedStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	const sync = "federation: f\nlisten: 127.0.0.1:0\nhttp: {listen: 127.0.0.1:0}\nstore: {embedded: {dataDir: DIR/data}}\n"
	for name, c := range map[string]struct {
		program, text string
		code          int
		says          []string
	}{
		"misspelt key":      {"synchronizer", "federation: f\nclusers: []\n", 2, []string{":2:", "clusers", `"clusters"`}},
		"two mistakes":      {"synchronizer", "federatoin: f\nlisten: nowhere\n", 2, []string{"federatoin", `"federation"`, ":2:", "nowhere"}},
		"duplicate cluster": {"synchronizer", sync + "clusters: [{name: a, resolvers: [{file: {path: x}}]}, {name: a, resolvers: [{file: {path: x}}]}]\n", 2, []string{`"a"`}},
		"unknown strategy":  {"agent", "cluster: a\nnode: n\nsynchronizers: [127.0.0.1:1]\nstrategy: local_first\n", 2, []string{"local_first", "local-first"}},
		"later key":         {"agent", "cluster: a\nnode: n\nsynchronizers: [127.0.0.1:1]\nadmin: {listen: 127.0.0.1:0}\n", 2, []string{"admin", "not supported"}},
		"no certificate":    {"agent", "cluster: a\nnode: n\nsynchronizers: [127.0.0.1:1]\ntls: {cert: DIR/none.pem, key: b, ca: c}\n", 1, []string{"tls", "none.pem", "no such file"}},
		"port in use":       {"synchronizer", strings.Replace(sync, "listen: 127.0.0.1:0", "listen: "+taken.Addr().String(), 1) + "clusters: []\n", 1, []string{taken.Addr().String(), "in use"}},
		"no file":           {"agent", "", 2, []string{"no such file"}},
		"loopback to network": {
			"agent", "cluster: a\nnode: n\nsynchronizers: [10.0.0.1:7700]\n", 2, []string{"internal", "synchronizers"},
		},
		"plaintext network listener": {"agent", "cluster: a\nnode: n\nsynchronizers: [127.0.0.1:1]\nhttp: {listen: 0.0.0.0:3500}\n", 2, []string{"insecure: true"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".yml")
			if c.text != "" {
				write(t, file, strings.ReplaceAll(c.text, "DIR", dir))
			}
			out, err := exec.CommandContext(testkit.Context(t), filepath.Join(bin, c.program), "--config", file).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != c.code {
				t.Errorf("ended with %v, want exit code %d", err, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(string(out), s) {
					t.Errorf("does not say %q: %s", s, out)
				}
			}
		})
	}
}

// Two synchronizers cannot share an embedded store: the second says whose it is and ends.
func TestDataDirectoryInUse(t *testing.T) {
	w := newWorld(t, options{}, "east")
	config, err := os.ReadFile(filepath.Join(w.dir, "synchronizer.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(w.admin, loopback(t), w.http, loopback(t)).Replace(string(config))
	file := filepath.Join(w.dir, "second.yml")
	write(t, file, text)
	out, err := exec.CommandContext(w.ctx, filepath.Join(bin, "synchronizer"), "--config", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use") || !strings.Contains(string(out), filepath.Join(w.dir, "store")) {
		t.Errorf("the second synchronizer: %v %s", err, out)
	}
}

// status returns what ListClusters says of one registry.
func (w *world) status(cluster, registry string) (*storev1.RegistryStatus, error) {
	resp, err := w.connect().ListClusters(w.ctx, &adminv1.ListClustersRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range resp.GetClusters() {
		if c.GetName() != cluster {
			continue
		}
		for _, r := range c.GetRegistries() {
			if r.GetName() == registry {
				return r, nil
			}
		}
	}
	return nil, fmt.Errorf("no registry %s of %s in %v", registry, cluster, resp)
}

// A registry file that is spoilt loses no list, and the error is there to be read; what was
// wrong with a single record spoils only that record.
func TestGarbageInAFileRegistry(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	reg := w.clusters["west"].registry.(*fileRegistry)
	for name, c := range map[string]struct{ text, says string }{
		"not YAML":        {"services: [", "west.yaml:"},
		"empty":           {"", "empty"},
		"no services key": {"service: []\n", "services"},
		"a wrong key":     {"services:\n  - nmae: cart\n", "name"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			write(t, reg.path, c.text)
			testkit.Eventually(t, w.ctx, "the error shows", func() error {
				s, err := w.status("west", "file")
				if err == nil && (s.GetState() != storev1.RegistryStatus_FAILED || !strings.Contains(s.GetLastError(), c.says)) {
					err = fmt.Errorf("%v", s)
				}
				return err
			})
			w.served("east", "external-only", "west")
			w.served("west", "local-only", "west")
			reg.save()
			testkit.Eventually(t, w.ctx, "the error goes", func() error {
				s, err := w.status("west", "file")
				if err == nil && s.GetState() != storev1.RegistryStatus_OK {
					err = fmt.Errorf("%v", s)
				}
				return err
			})
		})
	}
	reg.list["bad"] = "      - {id: bad, address: 127.0.0.1, port: 70000, node: west-1}\n"
	reg.save()
	testkit.Eventually(t, w.ctx, "the bad record is set aside", func() error {
		s, err := w.status("west", "file")
		if err == nil && (s.GetSetAside() != 1 || !strings.Contains(s.GetLastSetAside(), "70000")) {
			err = fmt.Errorf("%v", s)
		}
		return err
	})
	w.t = t
	w.served("east", "external-only", "west")
}

// What cannot be reached at start is a state that one can see, not a reason to end.
func TestStartWithEverythingElseDown(t *testing.T) {
	dir := t.TempDir()
	admin, health, agentHTTP, agentHealth := loopback(t), loopback(t), loopback(t), loopback(t)
	dead := loopback(t)
	port := serveApp(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }), nil)
	write(t, filepath.Join(dir, "reg.yaml"), fmt.Sprintf("services:\n  - name: own\n    instances:\n      - {id: own-1, address: 127.0.0.1, port: %d, node: n1}\n", port))
	write(t, filepath.Join(dir, "sync.yml"), fmt.Sprintf("federation: f\nlisten: %s\nhttp: {listen: %s}\nstore: {etcd: {endpoints: [%s]}}\nclusters:\n  - {name: east, resolvers: [{consul: {address: %s}}]}\n", admin, health, dead, dead))
	write(t, filepath.Join(dir, "agent.yml"), fmt.Sprintf("cluster: east\nnode: n1\nsynchronizers: [%s]\nresolvers: [{file: {path: %s}}, {consul: {address: %s}}]\nhttp: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\n", admin, filepath.Join(dir, "reg.yaml"), dead, agentHTTP, loopback(t), agentHealth))
	ctx := testkit.Context(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	get := func(url string) (int, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(b)
	}
	wait := func(url string, code int, says string) {
		t.Helper()
		testkit.Eventually(t, ctx, url, func() error {
			if c, body := get(url); c != code || !strings.Contains(body, says) {
				return fmt.Errorf("%d %s", c, body)
			}
			return nil
		})
	}
	sync := testkit.NewDaemon(t, filepath.Join(bin, "synchronizer"), "synchronizer", "--config", filepath.Join(dir, "sync.yml"))
	sync.Start()
	wait("http://"+health+"/healthz", 200, "ok")
	wait("http://"+health+"/readyz", 503, "store")
	conn, err := grpc.NewClient(admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if h, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil || h.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("grpc.health without a store: %v %v", h, err)
	}
	agent := testkit.NewDaemon(t, filepath.Join(bin, "agent"), "agent", "--config", filepath.Join(dir, "agent.yml"))
	agent.Start()
	wait("http://"+agentHealth+"/readyz", 200, "degraded")
	wait("http://"+agentHTTP+"/v1.0/healthz", 204, "")
	wait("http://"+agentHTTP+"/v1.0/invoke/own/method/x", 200, "here")
	if code, body := get("http://" + agentHTTP + "/v1.0/invoke/other/method/x"); code != 503 || !strings.Contains(body, "NOT_SYNCED") {
		t.Errorf("an unknown name while nothing is synced: %d %s, want 503 NOT_SYNCED", code, body)
	}
	for _, d := range []*testkit.Daemon{agent, sync} {
		d.Term()
		if err := d.Wait(); err != nil {
			t.Errorf("ended with %v", err)
		}
	}
}
