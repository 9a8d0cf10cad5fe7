package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// stub answers as Consul does, for the faults that a real one cannot be made to show. It fails
// the test on a URL that the package has no business asking for.
type stub struct {
	t   testing.TB
	srv *httptest.Server

	mu      sync.Mutex
	index   uint64 // of every table
	server  string // id of Consul's own server
	ports   map[string]int
	fault   func(w http.ResponseWriter, path string) (answered bool)
	changed chan struct{} // closed and renewed at each change
}

func newStub(t testing.TB, services ...string) *stub {
	t.Helper()
	s := &stub{t: t, index: 100, server: "id-1", ports: map[string]int{}, changed: make(chan struct{})}
	for _, name := range services {
		s.ports[name] = 80
	}
	s.srv = httptest.NewServer(s)
	t.Cleanup(func() {
		s.set(func() { s.fault = refuse })
		s.srv.Close()
	})
	return s
}

func refuse(w http.ResponseWriter, _ string) bool {
	http.Error(w, "the test is over", http.StatusInternalServerError)
	return true
}

func (s *stub) addr() string { return s.srv.Listener.Addr().String() }

// set changes the stub and wakes who waits for a change.
func (s *stub) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stub) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	wait, _ := strconv.ParseUint(req.URL.Query().Get("index"), 10, 64)
	for {
		s.mu.Lock()
		index, fault, changed := s.index, s.fault, s.changed
		body, known := s.body(req)
		s.mu.Unlock()
		switch {
		case fault != nil && fault(w, req.URL.Path):
			return
		case !known:
			s.t.Errorf("Consul was asked for %s", req.URL)
			http.NotFound(w, req)
			return
		case index != wait:
			w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
			_ = json.NewEncoder(w).Encode(body) // who asked may be gone
			return
		}
		select {
		case <-changed:
		case <-req.Context().Done():
			return
		}
	}
}

func (s *stub) body(req *http.Request) (body any, known bool) {
	switch path := req.URL.Path; {
	case path == "/v1/catalog/services":
		list := map[string][]string{"consul": {}}
		for name := range s.ports {
			list[name] = []string{}
		}
		return list, true
	case path == "/v1/catalog/nodes" && req.URL.Query().Has("node-meta"), path == "/v1/health/checks/"+nothing, path == "/v1/health/state/any":
		return []int{}, true
	case path == "/v1/catalog/nodes":
		return []node{{ID: s.server, Node: "n1", ModifyIndex: 1}}, true
	case path == "/v1/catalog/service/consul" && s.server == "":
		return []node{}, true
	case path == "/v1/catalog/service/consul":
		return []node{{ID: s.server, Node: "n1"}}, true
	case path == "/v1/catalog/node-services/n1":
		var list []listed
		for name := range s.ports {
			list = append(list, listed{ID: name + "-1", Service: name, ModifyIndex: s.index})
		}
		return map[string]any{"Services": list}, true
	case strings.HasPrefix(path, "/v1/health/service/"):
		name := strings.TrimPrefix(path, "/v1/health/service/")
		entries := []*api.ServiceEntry{}
		if port, ok := s.ports[name]; ok {
			entries = append(entries, &api.ServiceEntry{Node: &api.Node{Node: "n1", Address: "10.0.0.1"},
				Service: &api.AgentService{ID: name + "-1", Service: name, Port: port, ModifyIndex: s.index}})
		}
		return entries, true
	}
	return nil, false
}

func shown(name string, port int) string {
	return fmt.Sprintf("%s/%s-1 10.0.0.1:%d w=1 UNKNOWN", name, name, port)
}

// TestBadAnswers: what is not a whole answer of Consul's is a failure in words, and nothing is
// published.
func TestBadAnswers(t *testing.T) {
	answer := func(index, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			if index != "" {
				w.Header().Set("X-Consul-Index", index)
			}
			_, _ = w.Write([]byte(body))
		}
	}
	status := func(code int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { http.Error(w, body, code) }
	}
	const secret = "3f1c9f3e-secret"
	for _, c := range []struct {
		name  string
		path  string
		write func(http.ResponseWriter)
		words []string
	}{
		{"500 for the list", "/v1/catalog/services", status(500, "No cluster leader"), []string{"list services", "no leader", "500"}},
		{"500 for the checks", "/v1/health/state/any", status(500, "rpc error"), []string{"list checks", "rpc error"}},
		{"500 for one service of two", "/v1/health/service/b", status(500, "boom"), []string{"read service", "boom", "(b)"}},
		{"too many requests", "/v1/health/service/a", status(429, "limit"), []string{"limits.http_max_conns_per_client"}},
		{"a page that is no JSON", "/v1/catalog/services", answer("7", "<html>proxy</html>"), []string{"list services", "invalid character"}},
		{"a list of the wrong kind", "/v1/catalog/services", answer("7", `["a"]`), []string{"cannot unmarshal"}},
		{"null for the list", "/v1/catalog/services", answer("7", "null"), []string{"null"}},
		{"an empty list", "/v1/catalog/services", answer("7", "{}"), []string{"not even Consul itself"}},
		{"an empty list of nodes", "/v1/catalog/nodes", answer("7", "[]"), []string{"node:read"}},
		{"no index", "/v1/catalog/services", answer("", `{"consul":[]}`), []string{"X-Consul-Index"}},
		{"index 0", "/v1/catalog/services", answer("0", `{"consul":[]}`), []string{"X-Consul-Index"}},
		{"index that is no number", "/v1/catalog/services", answer("many", `{"consul":[]}`), []string{"X-Consul-Index"}},
		{"half a list", "/v1/catalog/services", answer("7", `{"consul":[],"a":`), []string{"EOF"}},
		{"half an answer", "/v1/health/service/a", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			answer("7", `[`)(w)
		}, []string{"read service", "EOF"}},
		{"null for a service", "/v1/health/service/a", answer("7", "null"), []string{"null"}},
		{"an entry without a node", "/v1/health/service/a", answer("7", `[{"Service":{"ID":"a-1","Service":"a"}}]`), []string{"no node"}},
		{"a redirect", "/v1/catalog/services", func(w http.ResponseWriter) {
			w.Header().Set("Location", "/v1/elsewhere")
			w.WriteHeader(http.StatusMovedPermanently)
		}, []string{"301"}},
		{"the token in an error", "/v1/catalog/services", status(403, "Permission denied for "+secret+"\nsecond\tline"), []string{"403", "<token> second line", "service:read"}},
		{"a long error", "/v1/catalog/services", status(502, strings.Repeat("x", 10_000)), []string{"502", "xxx..."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStub(t, "a", "b")
			s.fault = func(w http.ResponseWriter, path string) bool {
				if path != c.path {
					return false
				}
				c.write(w)
				return true
			}
			rec, stop := run(t, Config{Address: s.addr(), Token: secret})
			testkit.Eventually(t, within(t, 30*time.Second), "the failure is told", rec.FailedWith(c.words...))
			updates, confirms, failures := rec.All()
			if len(updates)+len(confirms) > 0 {
				t.Errorf("published %v, confirmed %v", updates, confirms)
			}
			if text := fmt.Sprint(failures); strings.Contains(text, secret) || len(text) > 1000*len(failures) {
				t.Errorf("failures hold the token or everything that Consul said: %.2000s", text)
			}
			s.set(func() { s.fault = nil })
			testkit.Eventually(t, within(t, 30*time.Second), "all is read when it is over", rec.Shows(shown("a", 80), shown("b", 80)))
			stop()
			if updates, _, _ := rec.All(); !updates[0].Full || len(updates) != 1 {
				t.Errorf("%d updates, the first full %v; want one, full", len(updates), updates[0].Full)
			}
		})
	}
}

// TestOneBrokenServiceDoesNotHideTheOthers: after the first full read, what can be read is
// published together, and what cannot stays as it was and is tried again.
func TestOneBrokenServiceDoesNotHideTheOthers(t *testing.T) {
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("s%02d", i))
	}
	view := func(port, broken int) []string {
		var lines []string
		for _, name := range names {
			p := port
			if name == "s05" {
				p = broken
			}
			lines = append(lines, shown(name, p))
		}
		return lines
	}
	s := newStub(t, names...)
	rec, _ := run(t, Config{Address: s.addr()})
	testkit.Eventually(t, within(t, 30*time.Second), "all are read", rec.Shows(view(80, 80)...))
	s.set(func() {
		s.index++
		for _, name := range names {
			s.ports[name] = 81
		}
		s.fault = func(w http.ResponseWriter, path string) bool {
			if path == "/v1/health/service/s05" {
				http.Error(w, "boom", http.StatusInternalServerError)
				return true
			}
			return false
		}
	})
	testkit.Eventually(t, within(t, 30*time.Second), "the others are news", rec.Shows(view(81, 80)...))
	testkit.Eventually(t, within(t, 30*time.Second), "the failure is told", rec.FailedWith("boom", "(s05)"))
	if updates, _, _ := rec.All(); len(updates) != 2 {
		t.Errorf("%d updates, want the full one and one of all that could be read", len(updates))
	}
	s.set(func() { s.fault = nil })
	testkit.Eventually(t, within(t, 30*time.Second), "it is read in the end", rec.Shows(view(81, 81)...))
}

// TestANameThatIsTooLongIsNotAskedFor: no service of ours can have it, and a Consul that is asked for it
// refuses the question or cuts the connection; it is set aside, and the others are read, at the
// start and later.
func TestANameThatIsTooLongIsNotAskedFor(t *testing.T) {
	long := strings.Repeat("n", 2<<20)
	s := newStub(t, "a", long)
	rec, _ := run(t, Config{Address: s.addr()})
	testkit.Eventually(t, within(t, 30*time.Second), "the other one is read", rec.Shows(shown("a", 80)))
	s.set(func() { s.index++; s.ports = map[string]int{"a": 81, strings.Repeat("n", 300): 80} })
	testkit.Eventually(t, within(t, 30*time.Second), "the other one's news is read", rec.Shows(shown("a", 81)))
	updates, _, failures := rec.All()
	if text := fmt.Sprint(failures); strings.Contains(text, "nnn") {
		t.Errorf("it was asked for: %.300s", text)
	}
	if all := fmt.Sprint(updates[0].Snapshots); !strings.Contains(all, "too long") {
		t.Errorf("nothing says that the name is too long: %.300s", all)
	}
}

// TestAnotherRegistryAfterAFailure: what answers after a failure is looked at before it is
// believed, so that an emptier Consul is never told as a removal.
func TestAnotherRegistryAfterAFailure(t *testing.T) {
	s := newStub(t, "a", "b")
	rec, _ := run(t, Config{Address: s.addr()})
	testkit.Eventually(t, within(t, 30*time.Second), "all are read", rec.Shows(shown("a", 80), shown("b", 80)))
	s.set(func() { s.fault = refuse })
	testkit.Eventually(t, within(t, 30*time.Second), "the failure is told", rec.FailedWith("the test is over"))
	s.set(func() {
		s.fault = nil
		s.server = "id-2"
		s.index += 1000
		s.ports = map[string]int{"b": 80}
	})
	testkit.Eventually(t, within(t, 30*time.Second), "the other one is read", rec.Shows(shown("b", 80)))
	updates, _, _ := rec.All()
	if u := updates[1]; !u.Full || !strings.Contains(u.Reset, "identity changed") {
		t.Errorf("the first update of the other one: full %v, reset %q, snapshots %v", u.Full, u.Reset, u.Snapshots)
	}
}

// TestAnotherRegistryIsAReset: an index that goes backwards, servers that are all others, and
// an own entry that is gone each make the next update a full one that says why.
func TestAnotherRegistryIsAReset(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *stub)
		reason string
	}{
		{"backwards", func(s *stub) { s.index = 50 }, "index of"},
		{"other servers", func(s *stub) { s.server = "id-2"; s.index++ }, "identity changed"},
		{"no servers", func(s *stub) { s.server = "" }, "own entry vanished"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStub(t, "a", "b")
			rec, _ := run(t, Config{Address: s.addr()})
			testkit.Eventually(t, within(t, 30*time.Second), "all are read", rec.Shows(shown("a", 80), shown("b", 80)))
			s.set(func() { c.change(s) })
			testkit.Eventually(t, within(t, 30*time.Second), "it is told", func() error {
				updates, _, _ := rec.All()
				last := updates[len(updates)-1]
				if !last.Full || !strings.Contains(last.Reset, c.reason) {
					return fmt.Errorf("the last update: full %v, reset %q", last.Full, last.Reset)
				}
				return nil
			})
			if err := rec.Shows(shown("a", 80), shown("b", 80))(); err != nil {
				t.Error(err)
			}
			if _, _, failures := rec.All(); len(failures) > 0 {
				t.Errorf("failures %v", failures)
			}
		})
	}
}

// TestResetIsTellableAfterAPause: a Resolver that is run again knows which registry it read.
func TestResetIsTellableAfterAPause(t *testing.T) {
	s := newStub(t, "a")
	r, err := New(Config{Address: s.addr()}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	once := func() catalog.Update {
		rec := newRecord()
		stop := testkit.Go(t, "Run", func(ctx context.Context) error { _ = r.Run(ctx, rec); return nil })
		testkit.Eventually(t, within(t, 30*time.Second), "it is read", func() error {
			if updates, _, _ := rec.All(); len(updates) == 0 {
				return fmt.Errorf("no update")
			}
			return nil
		})
		stop()
		updates, _, _ := rec.All()
		return updates[0]
	}
	if u := once(); u.Reset != "" {
		t.Errorf("the first Run says reset %q", u.Reset)
	}
	if u := once(); u.Reset != "" || !u.Full {
		t.Errorf("the second Run: full %v, reset %q", u.Full, u.Reset)
	}
	s.set(func() { s.index, s.server = 7, "id-9" })
	u := once()
	for _, w := range []string{"identity changed", "index of services went backwards from 100 to 7"} {
		if !strings.Contains(u.Reset, w) {
			t.Errorf("the third Run says reset %q, want %q in it", u.Reset, w)
		}
	}
	if u := once(); u.Reset != "" {
		t.Errorf("the fourth Run says reset %q again", u.Reset)
	}
}

// TestTokenGoesNowhereElse: the token is sent with each request to Consul, and the environment's
// is not.
func TestTokenGoesNowhereElse(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "of-the-environment")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "/nowhere")
	for _, token := range []string{"", "mine"} {
		var mu sync.Mutex
		seen := map[string]bool{}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen[req.Header.Get(tokenHeader)] = true
			http.Error(w, "no", http.StatusForbidden)
		}))
		rec, stop := run(t, Config{Address: srv.Listener.Addr().String(), Token: token})
		testkit.Eventually(t, within(t, 30*time.Second), "it was asked", rec.FailedWith("403"))
		stop()
		srv.Close()
		mu.Lock()
		if len(seen) != 1 || !seen[token] {
			t.Errorf("with token %q Consul got %v", token, seen)
		}
		mu.Unlock()
	}
}

// TestTokenFileFailuresHaveWords: without its token file nothing is asked.
func TestTokenFileFailuresHaveWords(t *testing.T) {
	rec, _ := run(t, Config{Address: "127.0.0.1:1", TokenFile: "/nowhere/token"})
	testkit.Eventually(t, within(t, 30*time.Second), "it is told", rec.FailedWith("read token file", "/nowhere/token"))
}

// TestRegistrarTellsOnce: a Consul that refuses is logged when it begins to and when it ends,
// and the Registrar stops at once in spite of it.
func TestRegistrarTellsOnce(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Error(w, "Permission denied", http.StatusForbidden)
	}))
	defer srv.Close()
	var log lockedBuffer
	d := deps(t)
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	r, err := NewRegistrar(Config{Address: srv.Listener.Addr().String(), Token: "secret-token"}, d)
	if err != nil {
		t.Fatal(err)
	}
	reg := resolvers.Registration{Name: catalog.Name{Service: "cart"}, ID: "cart-1", Address: "127.0.0.1", Port: testkit.FreePort(t), RelayPort: 1}
	stop := testkit.Go(t, "Run", func(ctx context.Context) error { _ = r.Run(ctx, []resolvers.Registration{reg}); return nil })
	testkit.Eventually(t, within(t, 30*time.Second), "it is logged", func() error {
		if !strings.Contains(log.String(), "service:write") {
			return fmt.Errorf("log: %s", log.String())
		}
		return nil
	})
	timer := time.NewTimer(2 * keepEvery)
	defer timer.Stop()
	<-timer.C
	stop()
	if n := strings.Count(log.String(), "not kept up"); n != 1 {
		t.Errorf("the failure stands %d times in the log:\n%s", n, log.String())
	}
	if strings.Contains(log.String(), "secret-token") {
		t.Errorf("the token stands in the log:\n%s", log.String())
	}
}

func TestRegistrarRefusesContradictions(t *testing.T) {
	reg := resolvers.Registration{Name: catalog.Name{Service: "cart"}, ID: "cart-1", Address: "127.0.0.1", Port: 80}
	r, err := NewRegistrar(Config{}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	noPort := reg
	noPort.Port = 0
	for _, c := range []struct {
		name string
		apps []resolvers.Registration
		want string
	}{
		{"one id twice", []resolvers.Registration{reg, reg}, `two applications have the id "cart-1"`},
		{"no port", []resolvers.Registration{noPort}, "port 0"},
	} {
		if err := r.Run(t.Context(), c.apps); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
