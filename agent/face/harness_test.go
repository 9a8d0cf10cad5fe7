package face

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/relay"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// plan is a Router that answers every query alike, and keeps account of what the relay says.
type plan struct {
	strategy string
	terms    relay.Terms
	targets  []relay.Target
	clusters []relay.ClusterChoice
	err      error

	mu       sync.Mutex
	queries  []relay.Query
	outcomes []string
}

func (p *plan) Route(_ context.Context, q relay.Query) (relay.Choice, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queries = append(p.queries, q)
	if p.err != nil && p.terms.Rule != "" {
		return p.choice(nil), p.err
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.choice(p.targets), nil
}

func (p *plan) choice(targets []relay.Target) *choice { return &choice{plan: p, left: targets} }

func (p *plan) done(t relay.Target, o relay.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcomes = append(p.outcomes, t.Instance.Instance+" "+o.String())
}

func (p *plan) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := strings.Join(p.outcomes, ", ")
	p.outcomes = nil
	return s
}

type choice struct {
	plan *plan
	left []relay.Target
}

func (c *choice) Strategy() string                { return c.plan.strategy }
func (c *choice) Terms() *relay.Terms             { return &c.plan.terms }
func (c *choice) Clusters() []relay.ClusterChoice { return c.plan.clusters }
func (c *choice) Next() (relay.Target, bool) {
	if len(c.left) == 0 {
		return relay.Target{}, false
	}
	t := c.left[0]
	c.left = c.left[1:]
	t.Done = func(o relay.Outcome, _ time.Duration) { c.plan.done(t, o) }
	return t, true
}

// callerAgent is the agent next to the caller: a relay with both faces for applications.
type callerAgent struct {
	plan     *plan
	views    *views
	relay    *relay.Relay
	url      string
	grpc     runtimev1.DaprClient
	conn     *grpc.ClientConn // to the gRPC face
	agent    agentv1.AgentClient
	http     *HTTP
	reg      *prometheus.Registry
	stop     func()
	stopGRPC func()
}

func newCallerAgent(t *testing.T, p *plan) *callerAgent {
	t.Helper()
	return newTracedAgent(t, p, nil)
}

func newTracedAgent(t *testing.T, p *plan, tracer trace.Tracer) *callerAgent {
	t.Helper()
	return newAgent(t, p, tracer, Config{Apps: []App{{Name: web}}}, own{})
}

// newAgent starts a caller's agent with some of its configuration.
func newAgent(t *testing.T, p *plan, tracer trace.Tracer, c Config, o Own) *callerAgent {
	t.Helper()
	if p.strategy == "" {
		p.strategy = "local-first"
	}
	if p.terms.Attempts == 0 {
		p.terms.Attempts = 3
	}
	if p.terms.MaxParallel == 0 {
		p.terms.MaxParallel = 16
	}
	if p.terms.Rule == "" {
		p.terms.Rule = "by the plan"
	}
	reg := prometheus.NewRegistry()
	apps := app.New()
	t.Cleanup(apps.Close)
	r, err := relay.New(relay.Config{Cluster: "east", Node: "node-1"}, relay.Deps{Router: p, Apps: apps, Log: testkit.Log(t), Metrics: reg, Tracer: tracer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c.Cluster, c.Node, c.Version, c.Host, c.Grace = "east", "node-1", "v0", "10.0.0.1", 5*time.Second
	v := newViews()
	d := Deps{Relay: r, Own: o, Views: v, Attributes: NewAttributes(c), Log: testkit.Log(t)}
	h, err := NewHTTP(c, d)
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGRPC(c, d)
	if err != nil {
		t.Fatal(err)
	}
	hl, gl := listen(t), listen(t)
	stop := testkit.Go(t, "http", func(ctx context.Context) error { return h.Run(ctx, hl) })
	stopGRPC := testkit.Go(t, "grpc", func(ctx context.Context) error { return g.Run(ctx, gl) })
	cc, err := grpc.NewClient(gl.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return &callerAgent{
		plan: p, views: v, relay: r, url: "http://" + hl.Addr().String(), grpc: runtimev1.NewDaprClient(cc), conn: cc, agent: agentv1.NewAgentClient(cc),
		http: h, reg: reg, stop: stop, stopGRPC: stopGRPC,
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// own is the list of a node's own instances.
type own []OwnInstance

func (o own) Find(id catalog.ID) (OwnInstance, bool) {
	for _, i := range o {
		if i.Instance.ID == id {
			return i, true
		}
	}
	return OwnInstance{}, false
}

func (o own) Any(appID string) (OwnInstance, bool) {
	for _, i := range o {
		if i.Instance.Service == appID || appID == "" && len(o) == 1 {
			return i, true
		}
	}
	return OwnInstance{}, false
}

// At implements Own: the node has one application, web.
func (o own) At(a netip.Addr) (catalog.Name, bool) { return web, !a.IsValid() }

// web is the application that calls.
var web = catalog.Name{Namespace: "shop", Service: "web"}

// peerAgent is the agent next to an application.
type peerAgent struct {
	peer *Peer
	addr string
	stop func()
	own  OwnInstance
	reg  *prometheus.Registry
}

// newPeerAgent starts the agent of one application's node.
func newPeerAgent(t testing.TB, cluster, instance string, e app.Endpoint) *peerAgent {
	t.Helper()
	return newPeerAgentGrace(t, 5*time.Second, cluster, instance, e)
}

func newPeerAgentGrace(t testing.TB, grace time.Duration, cluster, instance string, e app.Endpoint) *peerAgent {
	t.Helper()
	l := listen(t)
	o := OwnInstance{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: cluster, Name: catalog.Name{Namespace: "shop", Service: "cart"}, Instance: instance}},
		App:      e,
	}
	apps := app.New()
	t.Cleanup(apps.Close)
	reg := prometheus.NewRegistry()
	p, err := NewPeer(Config{Cluster: cluster, Node: "node-2", Grace: grace}, PeerDeps{Own: own{o}, Apps: apps, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	stop := testkit.Go(t, "peer "+instance, func(ctx context.Context) error { return p.Run(ctx, l) })
	return &peerAgent{peer: p, addr: l.Addr().String(), stop: stop, own: o, reg: reg}
}

// target is the peer's instance as a router gives it.
func (p *peerAgent) target() relay.Target {
	return relay.Target{Instance: p.own.Instance, Dial: p.addr, Tier: 1, TierName: "west"}
}

// local is the same application as an instance of the caller's own node.
func (p *peerAgent) local() relay.Target {
	return relay.Target{Instance: p.own.Instance, Local: true, App: p.own.App, TierName: "local"}
}

// nobody is a target at an address where nobody listens.
func nobody(t testing.TB, instance string) relay.Target {
	t.Helper()
	return relay.Target{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "west", Name: catalog.Name{Namespace: "shop", Service: "cart"}, Instance: instance}},
		Dial:     testkit.Nobody(t).String(),
	}
}

func endpoint(t testing.TB, a net.Addr, protocol app.Protocol) app.Endpoint {
	t.Helper()
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return app.Endpoint{Address: host, Port: n, Protocol: protocol}
}

// application starts an HTTP application.
func application(t testing.TB, h http.HandlerFunc) app.Endpoint {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return endpoint(t, s.Listener.Addr(), app.HTTP)
}

// echo answers with what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Url", r.URL.String())
	b, _ := io.ReadAll(r.Body)
	_, _ = w.Write(b)
}

var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// answer is an HTTP answer, read to its end.
type answer struct {
	*http.Response
	body string
	err  error // of the body
}

// call makes an HTTP call; header holds key, value, key, value.
func call(t testing.TB, method, url string, body io.Reader, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(testkit.Context(t), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, string(b), err}
}

func want(t testing.TB, a answer, status int, body string) {
	t.Helper()
	if a.StatusCode != status || !strings.Contains(a.body, body) {
		t.Errorf("got %d %q, want %d with %q", a.StatusCode, a.body, status, body)
	}
}

// wantHeader checks headers; want holds key, value, key, value, and an empty value means absent.
func wantHeader(t testing.TB, h http.Header, want ...string) {
	t.Helper()
	for i := 0; i < len(want); i += 2 {
		if got := strings.Join(h.Values(want[i]), "|"); got != want[i+1] {
			t.Errorf("%s: got %q, want %q", want[i], got, want[i+1])
		}
	}
}

func atoi(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// value reads a counter.
func value(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return m.GetCounter().GetValue()
}

func appAddr(e app.Endpoint) string { return net.JoinHostPort(e.Address, strconv.Itoa(e.Port)) }
