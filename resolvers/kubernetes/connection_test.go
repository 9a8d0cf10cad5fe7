package kubernetes

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farcall/farcall/internal/testkit"
)

// connectionTo makes a connection to a server that is no API server, and its kubeconfig.
func connectionTo(t *testing.T, server string, cfg Config) (*connection, string) {
	t.Helper()
	cfg.Kubeconfig = testkit.Kubeconfig{Server: server}.Write(t)
	r, err := New(cfg, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c, cfg.Kubeconfig
}

// What comes after the EndpointSlices would be looked for in each of them.
func TestNodesAreReadFirst(t *testing.T) {
	c, _ := connectionTo(t, "https://127.0.0.1:1", Config{Regions: true, WatchNamespaces: []string{"a", "b"}})
	var tables []string
	for _, table := range c.tables {
		tables = append(tables, table.String())
	}
	want := "nodes, services in namespace a, endpointslices in namespace a, services in namespace b, endpointslices in namespace b"
	if got := strings.Join(tables, ", "); got != want {
		t.Errorf("it reads %s, want %s", got, want)
	}
}

func TestAnotherKubeconfigIsNoticed(t *testing.T) {
	c, path := connectionTo(t, "https://127.0.0.1:1", Config{})
	if c.rewritten() {
		t.Error("it is said to be another one, though nobody touched it")
	}
	if err := os.WriteFile(path, []byte("somewhat longer: than it was, or shorter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !c.rewritten() {
		t.Error("it was written in place")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if c.rewritten() {
		t.Error("one that is gone is not read again: it may be on its way")
	}
	if (&connection{}).rewritten() {
		t.Error("a pod has none")
	}
}

// TestAWatchThatEndsAtOnceIsNotOpenedInATightLoop: as some proxies do it.
func TestAWatchThatEndsAtOnceIsNotOpenedInATightLoop(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json;stream=watch")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	c, _ := connectionTo(t, s.URL, Config{})
	feed := make(chan news)
	w := &watcher{c: c, t: c.tables[0], feed: feed, revision: "1"}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	testkit.Go(t, "the watcher", func(context.Context) error { w.run(ctx); return nil })
	ends := 0
	for ctx.Err() == nil {
		select {
		case n := <-feed:
			if n.ended == nil {
				continue
			}
			ends++
			if !n.ended.early && n.ended.err == nil {
				t.Error("a watch that was broken off ended as it should")
			}
		case <-ctx.Done():
		}
	}
	if ends == 0 || ends > 8 {
		t.Errorf("it was opened %d times in 1.5 s, want some 5", ends)
	}
}

// TestAResetIsToldOnce: a wiped cluster is read before its API server has made the Service
// default/kubernetes, whose new uid is no news then.
func TestAResetIsToldOnce(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		kind, group := "ServiceList", "v1"
		if strings.HasSuffix(r.URL.Path, "/endpointslices") {
			kind, group = "EndpointSliceList", "discovery.k8s.io/v1"
		}
		fmt.Fprintf(w, `{"kind": %q, "apiVersion": %q, "metadata": {"resourceVersion": "50"}}`, kind, group)
	}))
	t.Cleanup(s.Close)
	c, _ := connectionTo(t, s.URL, Config{})
	for seenBefore, cluster := range map[string]string{"40": "1", "60": ""} {
		rec := newRecord()
		r := &Resolver{log: testkit.Quiet(), metrics: c.metrics, name: "test"}
		r.seen = seen{revisions: map[string]string{"services": seenBefore}, cluster: "1"}
		if _, _, err := r.full(t.Context(), c, rec); err != nil {
			t.Fatal(err)
		}
		updates, _, _ := rec.All()
		if u := updates[0]; (u.Reset == "") != (cluster != "") || r.reset != "" || r.seen.cluster != cluster {
			t.Errorf("after %s: reset %q, then %q, and the cluster is known as %q", seenBefore, u.Reset, r.reset, r.seen.cluster)
		}
	}
}

func TestWords(t *testing.T) {
	c := &connection{origin: "kubeconfig k"}
	services := &table{resource: "services"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{silence(15 * time.Second), "no answer within 15s: is the server in kubeconfig k up, and may this host reach it?"},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, ""), `services "" not found: is the server in kubeconfig k a Kubernetes API server, 1.21 or later?`},
		{x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"a"}}, Host: "b"},
			"x509: certificate is valid for a, not b: name the server in kubeconfig k as its certificate does, or set tls-server-name there"},
		{x509.UnknownAuthorityError{}, "x509: certificate signed by unknown authority: the certificate authority in kubeconfig k is not that of this API server"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no route")}, "dial tcp: no route: is the server in kubeconfig k the right one, and up?"},
		{io.ErrUnexpectedEOF, "unexpected EOF: is the server in kubeconfig k the right one, and up?"},
		{errors.New("two\nlines"), "two lines"},
	} {
		err := c.words("list", services, tt.err)
		if want := "kubernetes: list services in all namespaces: " + tt.want; err.Error() != want {
			t.Errorf("it says\n%v\nwant\n%s", err, want)
		}
		if !errors.Is(err, tt.err) {
			t.Errorf("%v is not found in it", tt.err)
		}
	}
}
