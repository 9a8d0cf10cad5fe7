//go:build unix

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// serveApp runs an HTTP application of the test's own and gives its port.
func serveApp(t *testing.T, h http.Handler, protocols *http.Protocols) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: protocols}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Close
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// addService puts another service into a cluster's file registry.
func (f *fileRegistry) addService(name, id string, port int, node string) {
	f.more += fmt.Sprintf("  - name: %s\n    instances:\n      - {id: %s, address: 127.0.0.1, port: %d, node: %s}\n", name, id, port, node)
	f.save()
}

func (w *world) ready(path string, headers ...string) {
	w.t.Helper()
	testkit.Eventually(w.t, w.ctx, path, func() error {
		a, err := w.call("east", http.MethodGet, path, headers...)
		if err == nil && a.status >= 400 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
}

// Bodies of any size cross two agents both ways, streamed: the application sees the first bytes
// before the last were sent.
func TestBodiesStream(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	port := serveApp(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sum":
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			if err == nil {
				fmt.Fprintf(rw, "%d %d %x", n, r.ContentLength, h.Sum(nil))
			}
		case "/events":
			rw.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(rw, "data: %d\n\n", i)
				_ = http.NewResponseController(rw).Flush() // a reader that is gone ends the test by itself
				if i == 0 {
					<-r.Context().Done() // the reader goes away after the first event
				}
			}
		}
	}), nil)
	w.clusters["west"].registry.(*fileRegistry).addService("blob", "blob-1", port, "west-1")
	w.ready("blob/method/ready")

	body := make([]byte, 10<<20)
	fill := rand.NewChaCha8([32]byte{1})
	_, _ = fill.Read(body) // never fails
	want := fmt.Sprintf("%d %d %x", len(body), len(body), sha256.Sum256(body))
	for _, c := range []struct {
		name   string
		length int64
		want   string
	}{
		{"known length", int64(len(body)), want},
		{"chunked", -1, fmt.Sprintf("%d -1 %x", len(body), sha256.Sum256(body))},
	} {
		req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, "http://"+w.clusters["east"].http+"/v1.0/invoke/blob/method/sum", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if req.ContentLength = c.length; c.length < 0 {
			req.Body = io.NopCloser(struct{ io.Reader }{bytes.NewReader(body)})
		}
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.name, got, c.want, err)
		}
	}

	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.clusters["east"].http+"/v1.0/invoke/blob/method/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("data: 0\n\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: 0\n\n" {
		t.Errorf("the first event: %q %v", first, err)
	}
	resp.Body.Close() // the application ends only if this reaches it
}

// callback is an application that speaks Dapr's AppCallback.
type callback struct {
	runtimev1.UnimplementedAppCallbackServer
}

func (callback) OnInvoke(_ context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	if in.GetMethod() == "fail" {
		return nil, status.Error(codes.FailedPrecondition, "not today")
	}
	return &commonv1.InvokeResponse{Data: &anypb.Any{Value: append([]byte(in.GetMethod()+": "), in.GetData().GetValue()...)}, ContentType: "text/plain"}, nil
}

// Applications of the three protocols are called through both faces, from the other cluster.
func TestProtocols(t *testing.T) {
	w := newWorld(t, options{apps: "apps: [{id: h2, protocol: h2c}, {id: rpc, protocol: grpc}]\n"}, "east", "west")
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	h2Port := serveApp(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err == nil {
			fmt.Fprintf(rw, "%s %s %s", r.Proto, r.URL.Path, b)
		}
	}), h2)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(rpc, callback{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = rpc.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { rpc.Stop(); <-done })
	reg := w.clusters["west"].registry.(*fileRegistry)
	reg.addService("h2", "h2-1", h2Port, "west-1")
	reg.addService("rpc", "rpc-1", l.Addr().(*net.TCPAddr).Port, "west-1")
	w.ready("h2/method/ready")
	w.ready("rpc/method/ready")

	for path, want := range map[string]string{
		"h2/method/a/b": "200 HTTP/2.0 /a/b hello",
		"rpc/method/go": "200 go: hello",
	} {
		a, err := w.call("east", http.MethodPost, path)
		if got := fmt.Sprint(a.status, " ", a.body); err != nil || got != want {
			t.Errorf("HTTP to %s: %s (%v), want %s", path, got, err, want)
		}
	}
	conn, err := grpc.NewClient(w.clusters["east"].grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := runtimev1.NewDaprClient(conn)
	invoke := func(id, method string, kv ...string) (string, metadata.MD, error) {
		var header metadata.MD
		resp, err := client.InvokeService(metadata.AppendToOutgoingContext(w.ctx, kv...), &runtimev1.InvokeServiceRequest{Id: id, Message: &commonv1.InvokeRequest{
			Method: method, Data: &anypb.Any{Value: []byte("hello")}, ContentType: "text/plain",
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST},
		}}, grpc.Header(&header))
		return string(resp.GetData().GetValue()), header, err
	}
	for _, c := range []struct {
		id, method string
		kv         []string
		want       string
		code       codes.Code
	}{
		{"h2", "a", nil, "HTTP/2.0 /a hello", codes.OK},
		{"rpc", "go", nil, "go: hello", codes.OK},
		{"cart", "x", []string{"farcall-cluster", "west"}, "POST /x west/", codes.OK},
		{"rpc", "fail", nil, "", codes.FailedPrecondition},
		{"nobody", "x", nil, "", codes.NotFound},
		{"cart", "x", []string{"farcall-strategy", "nearest"}, "", codes.InvalidArgument},
		{"h2", "a", []string{"farcall-strategy", "local-only"}, "", codes.Unavailable},
	} {
		got, header, err := invoke(c.id, c.method, c.kv...)
		if status.Code(err) != c.code || !bytes.HasPrefix([]byte(got), []byte(c.want)) {
			t.Errorf("InvokeService %s/%s %v: %q %v, want %q %v", c.id, c.method, c.kv, got, err, c.want, c.code)
		}
		if c.code == codes.OK && (len(header["farcall-served-by"]) != 1 || header["farcall-served-by"][0][:5] != "west/") {
			t.Errorf("InvokeService %s: served by %v", c.id, header["farcall-served-by"])
		}
	}
}
