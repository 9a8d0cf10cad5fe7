package tracing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/internal/testkit"
)

// collector is an OTLP collector that keeps what it is sent, and refuses or hangs when told.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	addr  string
	asked atomic.Int32

	mu     sync.Mutex
	spans  []*tracepb.ResourceSpans
	refuse error
	hang   bool
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{addr: l.Addr().String()}
	s := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(s, c)
	testkit.Go(t, "collector", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
	return c
}

func (c *collector) Export(ctx context.Context, in *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.asked.Add(1)
	c.mu.Lock()
	refuse, hang := c.refuse, c.hang
	if refuse == nil && !hang {
		c.spans = append(c.spans, in.GetResourceSpans()...)
	}
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		// It is not to be there before the client's own word that this took too long.
		return nil, ctx.Err()
	}
	return &coltracepb.ExportTraceServiceResponse{}, refuse
}

func (c *collector) told(refuse error, hang bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse, c.hang = refuse, hang
}

// has gives the names of the spans that came, and what the first of them says of who sent it.
func (c *collector) has() (names []string, from string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.spans {
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				names = append(names, s.GetName())
			}
		}
		var words []string
		for _, a := range r.GetResource().GetAttributes() {
			words = append(words, a.GetKey()+"="+a.GetValue().GetStringValue())
		}
		from = strings.Join(words, " ")
	}
	return names, from
}

type setup struct {
	*Provider
	log *buffer
	reg *prometheus.Registry
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func newProvider(t *testing.T, endpoint string) *setup {
	t.Helper()
	s := &setup{log: new(buffer), reg: prometheus.NewRegistry()}
	var err error
	s.Provider, err = New(Config{Endpoint: endpoint, Cluster: "east", Node: "n1", Version: "v1"},
		Deps{Log: slog.New(slog.NewTextHandler(s.log, nil)), Metrics: s.reg})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// count reads the counter of a result.
func (s *setup) count(t *testing.T, result string) float64 {
	t.Helper()
	var m dto.Metric
	if err := s.metrics.spans.WithLabelValues(result).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// span makes and ends one, below a parent elsewhere.
func (s *setup) span(name string, flags trace.TraceFlags) trace.Span {
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags, Remote: true})
	_, span := s.Tracer().Start(trace.ContextWithRemoteSpanContext(context.Background(), parent), name)
	span.End()
	return span
}

// TestSpansArrive says which spans a collector gets, and that those which have ended when Run is
// told to end still arrive.
func TestSpansArrive(t *testing.T) {
	c := newCollector(t)
	p := newProvider(t, c.addr)
	p.farewell = time.Minute
	p.span("before Run", trace.FlagsSampled)
	stop := testkit.Go(t, "tracing", p.Run)
	if s := p.span("unsampled", 0); s.IsRecording() || s.SpanContext().IsSampled() {
		t.Error("a span that the caller does not sample is recorded")
	}
	if _, s := p.Tracer().Start(t.Context(), "nobody's"); s.IsRecording() {
		t.Error("a trace was begun")
	}
	testkit.Eventually(t, testkit.Context(t), "the first span arrives while Run runs", func() error {
		if names, _ := c.has(); len(names) != 1 {
			return fmt.Errorf("%d spans", len(names))
		}
		return nil
	})
	for range batch + 1 {
		p.span("more", trace.FlagsSampled)
	}
	p.span("last", trace.FlagsSampled)
	stop()
	names, from := c.has()
	if len(names) != batch+3 || names[0] != "before Run" || names[len(names)-1] != "last" {
		t.Errorf("got %d spans, from %q to %q", len(names), names[0], names[len(names)-1])
	}
	if want := "farcall.cluster=east farcall.node=n1 service.instance.id=east/n1 service.name=farcall-agent service.version=v1"; from != want {
		t.Errorf("from %q, want %q", from, want)
	}
	if p.count(t, sent) != batch+3 || p.count(t, failed) != 0 || p.count(t, dropped) != 0 || p.log.String() != "" {
		t.Errorf("%v sent, %v failed, %v dropped; log %q", p.count(t, sent), p.count(t, failed), p.count(t, dropped), p.log)
	}
}

// TestACollectorThatRefuses says that lost spans are counted, and that the log says once that they
// are, and once that they are no longer.
func TestACollectorThatRefuses(t *testing.T) {
	c := newCollector(t)
	p := newProvider(t, c.addr)
	testkit.Go(t, "tracing", p.Run)
	await := func(result string, n float64) {
		t.Helper()
		testkit.Eventually(t, testkit.Context(t), result, func() error {
			if got := p.count(t, result); got != n {
				return fmt.Errorf("%v, want %v", got, n)
			}
			return nil
		})
	}
	c.told(status.Error(codes.PermissionDenied, "not yours"), false)
	p.span("a", trace.FlagsSampled)
	await(failed, 1)
	p.span("b", trace.FlagsSampled)
	await(failed, 2)
	c.told(nil, false)
	p.span("c", trace.FlagsSampled)
	await(sent, 1)
	testkit.Eventually(t, testkit.Context(t), "the log says so", func() error {
		log := p.log.String()
		if strings.Count(log, "spans are lost") != 1 || !strings.Contains(log, "not yours") || strings.Count(log, "takes spans again") != 1 {
			return errors.New(log)
		}
		return nil
	})
}

// TestACollectorThatHangs says that neither calls nor the agent's end wait for it, and that what
// does not arrive is counted.
func TestACollectorThatHangs(t *testing.T) {
	c := newCollector(t)
	c.told(nil, true)
	p := newProvider(t, c.addr)
	p.farewell = 50 * time.Millisecond
	// Nothing takes from the queue yet.
	for range queued + 7 {
		p.span("x", trace.FlagsSampled)
	}
	if n := p.count(t, dropped); n != 7 {
		t.Errorf("%v dropped, want 7", n)
	}
	stop := testkit.Go(t, "tracing", p.Run)
	testkit.Eventually(t, testkit.Context(t), "Run sends", func() error {
		if len(p.queue) > queued-batch {
			return errors.New("nothing was taken")
		}
		return nil
	})
	began := time.Now()
	stop()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("ended after %v", took)
	}
	if n := p.count(t, failed); n != queued {
		t.Errorf("%v failed, want %d", n, queued)
	}
}

// TestACollectorThatComesBack says that spans outlive a collector's being away for a moment.
func TestACollectorThatComesBack(t *testing.T) {
	c := newCollector(t)
	c.told(status.Error(codes.Unavailable, "not yet"), false)
	p := newProvider(t, c.addr)
	p.span("x", trace.FlagsSampled)
	testkit.Go(t, "tracing", p.Run)
	testkit.Eventually(t, testkit.Context(t), "the collector is asked", func() error {
		if c.asked.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	c.told(nil, false)
	testkit.Eventually(t, testkit.Context(t), "the span arrives", func() error {
		if names, _ := c.has(); len(names) != 1 {
			return fmt.Errorf("%d spans", len(names))
		}
		return nil
	})
	if n := p.count(t, failed); n != 0 {
		t.Errorf("%v failed", n)
	}
}

func TestACollectorThatIsNotThere(t *testing.T) {
	p := newProvider(t, testkit.Nobody(t).String())
	p.farewell = 50 * time.Millisecond
	p.span("x", trace.FlagsSampled)
	testkit.Go(t, "tracing", p.Run)()
	if n := p.count(t, failed); n != 1 {
		t.Errorf("%v failed, want 1", n)
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	deps := Deps{Log: testkit.Quiet(), Metrics: prometheus.NewRegistry()}
	for endpoint, want := range map[string]string{
		"": "host:port", "http://collector:4317": "not host:port", "collector": "not host:port", "collector:0": "1 to 65535", ":4317": "neither",
	} {
		if _, err := New(Config{Endpoint: endpoint}, deps); err == nil || !strings.HasPrefix(err.Error(), "tracing: endpoint: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", endpoint, err)
		}
	}
	if _, err := New(Config{Endpoint: "127.0.0.1:4317"}, Deps{}); err == nil {
		t.Error("made a provider of nothing")
	}
	if _, err := New(Config{Endpoint: "collector.example:4317"}, deps); err != nil {
		t.Error(err)
	}
	if _, err := New(Config{Endpoint: "collector.example:4317"}, deps); err == nil {
		t.Error("registered its metrics twice")
	}
}

// TestPlaintextIsForLoopback says that spans go out in plaintext elsewhere only when told.
func TestPlaintextIsForLoopback(t *testing.T) {
	for _, c := range []struct {
		Config
		want bool
	}{
		{Config{Endpoint: "127.0.0.1:4317"}, true},
		{Config{Endpoint: "localhost:4317"}, true},
		{Config{Endpoint: "[::1]:4317"}, true},
		{Config{Endpoint: "collector:4317"}, false},
		{Config{Endpoint: "10.0.0.1:4317"}, false},
		{Config{Endpoint: "collector:4317", Insecure: true}, true},
	} {
		if got := c.plaintext(); got != c.want {
			t.Errorf("%+v: plaintext %v", c.Config, got)
		}
	}
}
