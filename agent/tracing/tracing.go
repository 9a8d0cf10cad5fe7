// Package tracing sends the spans of an agent's calls to an OpenTelemetry collector, over OTLP and
// gRPC.
//
// It decides nothing about calls and makes no span itself: the relay does, with the Tracer. A
// collector that is away or slow costs spans, never a call. Its one goroutine is Run; those of
// the connection to the collector end with it.
package tracing

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/farcall/farcall/internal/catalog"
)

const (
	// queued spans wait for Run; what comes while the queue is full is dropped.
	queued = 4096
	// batch is the most spans of one message to the collector.
	batch = 512
	// every is how long a span waits at most for others to go with it.
	every = time.Second
	// within is how long the collector may take for one message, tries included.
	within = 5 * time.Second
	// farewell is how long what is left may take when Run ends.
	farewell = 3 * time.Second
)

// Config says who the agent is and where its spans go.
type Config struct {
	// Endpoint is the collector's host:port.
	Endpoint string
	// Insecure sends the spans in plaintext to an Endpoint that is not on loopback, where it is
	// always plaintext. Otherwise it is TLS, and the system's roots are trusted.
	Insecure bool

	Cluster, Node, Version string
}

func (c Config) plaintext() bool { return c.Insecure || catalog.IsLoopback(c.Endpoint) }

// Deps is what a Provider works with. All are needed.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Provider makes spans and sends them.
type Provider struct {
	endpoint string
	log      *slog.Logger
	metrics  *metrics
	sdk      *sdktrace.TracerProvider
	exporter *otlptrace.Exporter
	queue    chan sdktrace.ReadOnlySpan
	farewell time.Duration
	failing  bool // whether the last message failed; Run's own
}

// New makes a provider; nothing is dialled, and no span leaves, before Run.
func New(c Config, d Deps) (*Provider, error) {
	if d.Log == nil || d.Metrics == nil {
		return nil, errors.New("tracing: Log and Metrics are both needed")
	}
	if err := catalog.CheckHostPort(c.Endpoint); err != nil {
		return nil, fmt.Errorf("tracing: endpoint: %w", err)
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, err
	}
	security := otlptracegrpc.WithTLSCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}))
	if c.plaintext() {
		security = otlptracegrpc.WithInsecure()
	}
	p := &Provider{
		endpoint: c.Endpoint,
		log:      d.Log,
		metrics:  m,
		exporter: otlptracegrpc.NewUnstarted(
			otlptracegrpc.WithEndpoint(c.Endpoint),
			security,
			otlptracegrpc.WithTimeout(within),
			// A collector that restarts is found again within seconds; the defaults are some minutes.
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
				Enabled: true, InitialInterval: 100 * time.Millisecond, MaxInterval: time.Second, MaxElapsedTime: within,
			}),
			otlptracegrpc.WithDialOption(grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: 2 * time.Second,
			})),
		),
		queue:    make(chan sdktrace.ReadOnlySpan, queued),
		farewell: farewell,
	}
	p.sdk = sdktrace.NewTracerProvider(
		// The caller decides what is sampled; nothing is without it.
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "farcall-agent"),
			attribute.String("service.version", c.Version),
			attribute.String("service.instance.id", c.Cluster+"/"+c.Node),
			attribute.String("farcall.cluster", c.Cluster),
			attribute.String("farcall.node", c.Node),
		)),
		sdktrace.WithSpanProcessor(processor{p}),
	)
	return p, nil
}

// Tracer gives what makes spans. It is safe for concurrent use, before Run and after it too.
func (p *Provider) Tracer() trace.Tracer { return p.sdk.Tracer("github.com/farcall/farcall/agent") }

// Run sends spans until ctx is done, then those that are left, for a few seconds at most, and
// returns nil. It is called once, and ends after the calls whose spans it shall send.
func (p *Provider) Run(ctx context.Context) error {
	if err := p.exporter.Start(ctx); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	// A message under way when Run is told to end goes on: given up and sent again, it may be there twice.
	life, over := context.WithCancel(context.WithoutCancel(ctx))
	defer over()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(p.farewell, over) })()
	tick := time.NewTicker(every)
	defer tick.Stop()
	spans := make([]sdktrace.ReadOnlySpan, 0, batch)
	for {
		select {
		case s := <-p.queue:
			if spans = append(spans, s); len(spans) < batch {
				continue
			}
		case <-tick.C:
		case <-ctx.Done():
			return p.end(life, spans)
		}
		p.send(life, spans)
		clear(spans)
		spans = spans[:0]
	}
}

// end sends what is left and lets go of the collector, before ctx is done.
func (p *Provider) end(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	for left := true; left; {
		select {
		case s := <-p.queue:
			if spans = append(spans, s); len(spans) < batch {
				continue
			}
		default:
			left = false
		}
		p.send(ctx, spans)
		spans = spans[:0]
	}
	// It can only say that the time is over, and then everything has been let go of as well.
	_ = p.exporter.Shutdown(ctx)
	return nil
}

// send hands spans to the collector and counts them.
func (p *Provider) send(ctx context.Context, spans []sdktrace.ReadOnlySpan) {
	p.account(len(spans), p.export(ctx, spans))
}

func (p *Provider) export(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	return p.exporter.ExportSpans(ctx, spans)
}

// account counts spans that were sent, or with err were not. The first failure after a success is
// logged, and the first success after a failure.
func (p *Provider) account(n int, err error) {
	if n == 0 {
		return
	}
	result := sent
	if err != nil {
		result = failed
	}
	p.metrics.spans.WithLabelValues(result).Add(float64(n))
	switch {
	case err != nil && !p.failing:
		p.log.Warn("spans are lost: the collector does not take them", "endpoint", p.endpoint, "error", err)
	case err == nil && p.failing:
		p.log.Info("the collector takes spans again", "endpoint", p.endpoint)
	}
	p.failing = err != nil
}

// processor hands ended spans to Run, without ever waiting.
type processor struct{ *Provider }

var _ sdktrace.SpanProcessor = processor{}

// OnStart implements sdktrace.SpanProcessor.
func (processor) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor.
func (p processor) OnEnd(s sdktrace.ReadOnlySpan) {
	select {
	case p.queue <- s:
	default:
		p.metrics.spans.WithLabelValues(dropped).Inc()
	}
}

// Shutdown implements sdktrace.SpanProcessor. Run is what ends.
func (processor) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor.
func (processor) ForceFlush(context.Context) error { return nil }
