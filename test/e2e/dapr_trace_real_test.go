//go:build real && linux

package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/internal/testkit"
)

// spans is a collector of the spans of agents and daprds.
type spans struct {
	coltracepb.UnimplementedTraceServiceServer
	address string

	mu  sync.Mutex
	got map[string]span // by id
}

// span is one span: whose it is ("farcall-agent call", or a daprd's app-id), and its parent's id.
type span struct{ whose, trace, parent string }

func newSpans(t *testing.T) *spans {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &spans{address: l.Addr().String(), got: map[string]span{}}
	s := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(s, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return c
}

// ofAgents and ofDaprds make these send their spans here, of calls whose callers sample them.
func (c *spans) ofAgents() string { return "tracing: {endpoint: \"" + c.address + "\"}\n" }

func (c *spans) ofDaprds() string {
	return `{samplingRate: "0.0000001", otel: {endpointAddress: "` + c.address + `", isSecure: false, protocol: grpc}}`
}

// Export implements the collector's service.
func (c *spans) Export(_ context.Context, in *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range in.GetResourceSpans() {
		whose := ""
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				whose = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				is := span{whose, hex.EncodeToString(s.GetTraceId()), hex.EncodeToString(s.GetParentSpanId())}
				if whose == "farcall-agent" {
					is.whose += " " + s.GetName()
				}
				c.got[hex.EncodeToString(s.GetSpanId())] = is
			}
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// chain says whose spans lead from one up to another, the caller's.
func (c *spans) chain(trace, from, to string) (out []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := from; at != to; {
		s, ok := c.got[at]
		if !ok {
			return out, fmt.Errorf("nobody sent the span %s, which is above %v", at, out)
		}
		if s.trace != trace {
			return out, fmt.Errorf("the span %s of %s is in the trace %s", at, s.whose, s.trace)
		}
		// A daprd has several of its own, one below the other.
		if len(out) == 0 || out[len(out)-1] != s.whose {
			out = append(out, s.whose)
		}
		at = s.parent
	}
	return out, nil
}

// traces: whoever a call passes is in its trace, in order: the span that the application gets as
// its parent leads up to the caller's.
func (w *spliced) traces(t *testing.T, c *spans) {
	ctx := testkit.Context(t)
	agent := []string{"farcall-agent attempt", "farcall-agent call"}
	type traced struct {
		way, kind, trace, caller, got string
		want                          []string
	}
	var all []traced
	for i, way := range ways {
		s := way.of(w, t)
		s.ready()
		want := agent
		if s.sidecar {
			want = append(slices.Clone(want), "web")
		}
		for j, kind := range []string{"HTTP", "InvokeService", "unary"} {
			one := traced{way: way.name, kind: kind, trace: fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%02x%02x", i, j), caller: "00f067aa0ba902b7", want: want}
			parent := "00-" + one.trace + "-" + one.caller + "-01"
			switch kind {
			case "HTTP":
				one.got = s.call(http.MethodGet, "echo", nil, "traceparent: "+parent).header.Get("X-Got-Trace")
			case "InvokeService":
				_, header, err := s.invoke(s.web, "echo", "traceparent", parent)
				if err != nil {
					t.Error(err)
				}
				one.got = strings.Join(header["x-got-trace"], ",")
			case "unary":
				var header metadata.MD
				if _, err := s.unary(metadata.AppendToOutgoingContext(ctx, "traceparent", parent), s.sale, "x", grpc.Header(&header)); err != nil {
					t.Error(err)
				}
				one.got = strings.Join(header["x-got-traceparent"], ",")
			}
			if s.buffers && kind != "unary" {
				// A daprd 1.14 hands a proxied call's parent to its application as it got it.
				one.want = append([]string{s.web}, want...)
			}
			all = append(all, one)
		}
	}
	for _, one := range all {
		parts := strings.Split(one.got, "-")
		if len(parts) != 4 || parts[1] != one.trace || parts[3] != "01" {
			t.Errorf("%s, %s: the application got %q of the trace %s", one.way, one.kind, one.got, one.trace)
			continue
		}
		var got []string
		testkit.Eventually(t, ctx, one.way+", "+one.kind, func() (err error) {
			got, err = c.chain(one.trace, parts[2], one.caller)
			return err
		})
		if !slices.Equal(got, one.want) {
			t.Errorf("%s, %s: from the application up: %v, want %v", one.way, one.kind, got, one.want)
		}
	}
}
