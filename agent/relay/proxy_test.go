package relay

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// proxied makes one proxied call, of one message of size bytes, as made says, and gives the error
// that its caller sees.
func proxied(t *testing.T, size int, made func(ctx context.Context, call *proxy.Call) error) error {
	t.Helper()
	var readers sync.WaitGroup
	s := grpc.NewServer(proxy.ServerOptions(func(_ any, stream grpc.ServerStream) error {
		ctx, cancel := context.WithCancel(stream.Context())
		call := proxy.NewCall(stream, "/test.Talk/One", nil, cancel)
		defer call.End()
		call.Service, call.Header = "cart", metadata.MD{invoke.CalleeAppID: {"cart"}}
		call.Read(&readers)
		return made(ctx, call)
	})...)
	l := listen(t, "127.0.0.1:0")
	stop := testkit.Go(t, "proxy", func(context.Context) error { return s.Serve(l) })
	defer func() {
		s.Stop()
		stop()
		readers.Wait()
	}()
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	return cc.Invoke(testkit.Context(t), "/test.Talk/One", wrapperspb.Bytes(make([]byte, size)), new(wrapperspb.BytesValue))
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// callee takes every method: it notes the metadata, and does as the function says; nil: it answers
// with what it was told.
type callee struct {
	do func(s grpc.ServerStream) error
	md metadata.MD
}

func (c *callee) serve(t *testing.T, addr string) (e app.Endpoint, stop func()) {
	t.Helper()
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		c.md, _ = metadata.FromIncomingContext(s.Context())
		in := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(in); err != nil {
			return err
		}
		if c.do != nil {
			return c.do(s)
		}
		return s.SendMsg(in)
	}))
	l := listen(t, addr)
	ended := testkit.Go(t, "callee", func(context.Context) error { return s.Serve(l) })
	stop = func() {
		s.Stop()
		ended()
	}
	t.Cleanup(stop)
	a := l.Addr().(*net.TCPAddr)
	return app.Endpoint{Address: a.IP.String(), Port: a.Port, Protocol: app.GRPC}, stop
}

// What goes by way of a sidecar says to it in both of its spellings whom it is for, and to an agent
// that it has come too far. A sidecar that is not there is dialled afresh by the next call.
func TestSidecarsOpen(t *testing.T) {
	sidecars := NewSidecars()
	defer sidecars.Close()
	call := func(e app.Endpoint) error {
		return proxied(t, 10, func(ctx context.Context, call *proxy.Call) error {
			s, failed := sidecars.Open(ctx, e, call)
			if failed != nil {
				return failed.GRPCStatus().Err()
			}
			end, failed := call.Run(ctx, s, func(metadata.MD) error { return nil })
			if failed != nil {
				return failed.GRPCStatus().Err()
			}
			return end.Status.Err()
		})
	}
	c := &callee{}
	e, stop := c.serve(t, "127.0.0.1:0")
	if err := call(e); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{invoke.DaprAppID: "cart", invoke.CalleeAppID: "cart", invoke.HopKey: "2", invoke.TargetKey: ""} {
		if got := strings.Join(c.md[key], "|"); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	stop()
	gone := app.Endpoint{Address: e.Address, Port: testkit.Nobody(t).Port}
	for range 3 {
		if err := call(gone); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the sidecar of cart does not take connections") {
			t.Fatalf("got %v", err)
		}
	}
	e, stop = c.serve(t, "127.0.0.1:0")
	stop()
	if err := call(e); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v", err)
	}
	e, _ = c.serve(t, net.JoinHostPort(e.Address, strconv.Itoa(e.Port)))
	if err := call(e); err != nil {
		t.Errorf("the call after the sidecar came back: %v", err)
	}
}

// at is a Choice of the applications at these endpoints, one after another.
type at struct {
	list
	endpoints []app.Endpoint
}

func (c *at) Next() (Target, bool) {
	c.n = len(c.endpoints)
	t, ok := c.list.Next()
	if ok {
		t.App = c.endpoints[c.next-1]
	}
	return t, ok
}

// TestProxyAccount looks at the account that is kept of proxied calls.
func TestProxyAccount(t *testing.T) {
	good, _ := (&callee{}).serve(t, "127.0.0.1:0")
	bad, _ := (&callee{do: func(grpc.ServerStream) error { return status.Error(codes.Unavailable, "busy") }}).serve(t, "127.0.0.1:0")
	odd, _ := (&callee{do: func(grpc.ServerStream) error { return status.Error(200, "odd") }}).serve(t, "127.0.0.1:0")
	down := app.Endpoint{Address: "127.0.0.1", Port: testkit.Nobody(t).Port, Protocol: app.GRPC}
	for _, c := range []struct {
		what      string
		endpoints []app.Endpoint
		size      int
		code      codes.Code
		outcomes  string
		counted   string // of the counters
		line      string // of the access log
	}{
		{"served", []app.Endpoint{good}, 10, codes.OK, "served",
			"attempts app served, calls local-first 0 2xx", "attempts=1 code=200"},
		{"the application's error", []app.Endpoint{bad, good}, 10, codes.Unavailable, "served_error",
			"attempts app served_error, calls local-first 0 5xx", "attempts=1 code=503"},
		{"a code that there is not", []app.Endpoint{odd, good}, 10, 200, "served_error",
			"attempts app served_error, calls local-first 0 5xx", "attempts=1 code=500"},
		{"elsewhere", []app.Endpoint{down, good}, 10, codes.OK, "refused served",
			"attempts app refused, attempts app served, calls local-first 1 2xx, retries not_executed", "attempts=2 code=200"},
		{"elsewhere, with more than is kept, since nobody was told of it", []app.Endpoint{down, good}, 200 << 10, codes.OK, "refused served",
			"attempts app refused, attempts app served, calls local-first 1 2xx, retries not_executed", "attempts=2 code=200"},
		{"nowhere", []app.Endpoint{down, down}, 10, codes.Unavailable, "refused refused",
			"attempts app refused 2, calls local-first none Unavailable, retries not_executed 2", "error=\"APP_DOWN: "},
	} {
		t.Run(c.what, func(t *testing.T) {
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			apps := app.New()
			defer apps.Close()
			r, err := New(Config{Cluster: "east", Node: "n", AccessLog: LogAll}, Deps{
				Router: noRouter{}, Apps: apps, Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: reg,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			choice := &at{endpoints: c.endpoints}
			err = proxied(t, c.size, func(ctx context.Context, call *proxy.Call) error {
				record := r.Begin(invoke.Identity{AppID: "web"})
				record.Name = catalog.Name{Namespace: "shop", Service: "cart"}
				a, end := r.Proxy(ctx, choice, call, func(metadata.MD, Answer) error { return nil })
				record.End(a, nil)
				if a.Err != nil {
					return a.Err.GRPCStatus().Err()
				}
				return end.Status.Err()
			})
			if status.Code(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if got := strings.Join(choice.outcomes, " "); got != c.outcomes {
				t.Errorf("outcomes %q, want %q", got, c.outcomes)
			}
			if got := counters(t, reg); got != c.counted {
				t.Errorf("counted %q, want %q", got, c.counted)
			}
			if line := log.String(); !strings.Contains(line, c.line) || !strings.Contains(line, "caller=web service=shop/cart strategy=local-first") {
				t.Errorf("logged %s", line)
			}
		})
	}
}

// counters gives what was counted of calls, attempts and retries: the labels' values, and how often
// where it was not once.
func counters(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		name, ok := strings.CutSuffix(strings.TrimPrefix(f.GetName(), "farcall_relay_"), "_total")
		if !ok || f.GetType() != dto.MetricType_COUNTER {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() == 0 {
				continue
			}
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			line := name
			for _, l := range []string{"leg", "strategy", "tier", "outcome", "code", "reason"} {
				if v := labels[l]; v != "" {
					line += " " + v
				}
			}
			if n := m.GetCounter().GetValue(); n != 1 {
				line += " " + strconv.Itoa(int(n))
			}
			out = append(out, line)
		}
	}
	return strings.Join(out, ", ")
}
