package app

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/farcall/farcall/agent/invoke"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// serveTLS starts an HTTP application that speaks TLS, over which HTTP/2 where it takes it. It
// answers with the protocol that it was spoken to in.
func serveTLS(t *testing.T, c *tls.Config, http2 bool) Endpoint {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Proto))
	}))
	s.TLS, s.EnableHTTP2 = c, http2
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	e := endpoint(t, s.Listener.Addr())
	e.Protocol = HTTPS
	return e
}

// serveGRPCTLS starts a gRPC application that speaks TLS.
func serveGRPCTLS(t *testing.T, c *tls.Config) Endpoint {
	t.Helper()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(c)))
	runtimev1.RegisterAppCallbackServer(s, &callback{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "app", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
	e := endpoint(t, l.Addr())
	e.Protocol = GRPC
	return e
}

func deliver(t *testing.T, c *Channels, e Endpoint) (string, error) {
	t.Helper()
	resp, err := c.Deliver(testkit.Context(t), e, post("hi"))
	if err != nil {
		return "", err
	}
	return read(t, resp), nil
}

func TestTLS(t *testing.T) {
	right, wrong := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := right.Issue("agent")
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	const here = "127.0.0.1"
	for _, c := range []struct {
		name   string
		hosts  []string // of the application's certificate
		mutual bool
		tls    *TLS
		fails  string // empty: it works
	}{
		{name: "the right authority", hosts: []string{here}, tls: &TLS{CA: right.CA}},
		{name: "the wrong authority", hosts: []string{here}, tls: &TLS{CA: wrong.CA}, fails: "unknown authority"},
		{name: "the system's authorities", hosts: []string{here}, tls: &TLS{}, fails: "unknown authority"},
		{name: "the wrong name", hosts: []string{"cart.example"}, tls: &TLS{CA: right.CA}, fails: "127.0.0.1"},
		{name: "a name that is stated", hosts: []string{"cart.example"}, tls: &TLS{CA: right.CA, ServerName: "cart.example"}},
		{name: "a wrong name that is stated", hosts: []string{here}, tls: &TLS{CA: right.CA, ServerName: "cart.example"}, fails: "cart.example"},
		{name: "not verified", hosts: []string{"cart.example"}, tls: &TLS{Insecure: true}},
		{name: "with a certificate", hosts: []string{here}, mutual: true, tls: &TLS{CA: right.CA, Cert: cert, Key: key}},
		{name: "a missing file", hosts: []string{here}, tls: &TLS{CA: garbage + "x"}, fails: "tls.ca: open "},
		{name: "a broken file", hosts: []string{here}, tls: &TLS{CA: garbage}, fails: "tls.ca: " + garbage + " holds no PEM certificate"},
		{name: "a broken certificate", hosts: []string{here}, tls: &TLS{CA: right.CA, Cert: garbage, Key: key}, fails: "tls: failed to find any PEM data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := right.Server(c.mutual, c.hosts...)
			for name, e := range map[string]Endpoint{
				"HTTP/1.1": serveTLS(t, server.Clone(), false),
				"HTTP/2.0": serveTLS(t, server.Clone(), true),
				"gRPC":     serveGRPCTLS(t, server.Clone()),
			} {
				e.Access = &Access{TLS: c.tls}
				all := channels(t)
				body, err := deliver(t, all, e)
				if c.fails != "" {
					wantError(t, err, codes.Unavailable, c.fails)
					var is *invoke.Error
					if errors.As(err, &is) && is.Reason != invoke.ReasonAppDown {
						t.Errorf("%s: reason %s", name, is.Reason)
					}
					continue
				}
				if want := map[string]string{"gRPC": "hi"}[name]; err != nil || body != want && body != name {
					t.Errorf("%s: got %q, %v", name, body, err)
				}
			}
		})
	}
}

// An application that refuses the agent's certificate, or asks for one in vain, is not called. With
// TLS 1.3 the refusal may come after the call was written, or be lost with the connection: then it is
// unknown what became of it.
func TestCertificateRefused(t *testing.T) {
	a := testkit.NewAuthority(t)
	cert, key := testkit.NewAuthority(t).Issue("stranger")
	for name, access := range map[string]*Access{
		"none":          {TLS: &TLS{CA: a.CA}},
		"of a stranger": {TLS: &TLS{CA: a.CA, Cert: cert, Key: key}},
	} {
		server := a.Server(true, "127.0.0.1")
		for _, e := range []Endpoint{serveTLS(t, server.Clone(), false), serveTLS(t, server.Clone(), true), serveGRPCTLS(t, server.Clone())} {
			e.Access = access
			_, err := deliver(t, channels(t), e)
			var is *invoke.Error
			if !errors.As(err, &is) || !is.NotExecuted() && (e.Protocol == GRPC || !is.OutcomeUnknown()) {
				t.Errorf("%s, %s: got %v", name, e.Protocol, err)
			}
		}
	}
	for _, alert := range refusals {
		if err := handshakeFailure(&net.OpError{Op: "remote error", Err: alert}); err == nil {
			t.Errorf("alert %d is taken for something else than a refusal", alert)
		}
	}
	for _, err := range []error{
		&net.OpError{Op: "remote error", Err: tls.AlertError(80)}, // internal_error: of whatever time
		&net.OpError{Op: "read", Err: tls.AlertError(42)},
		io.EOF,
	} {
		if handshakeFailure(err) != nil {
			t.Errorf("%v is taken for a failed handshake", err)
		}
	}
}

// A file that is mended, or renewed, counts from the next connection on.
func TestTLSFilesAreReadAgain(t *testing.T) {
	a := testkit.NewAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	all := channels(t)
	settings := &Access{TLS: &TLS{CA: ca}}
	web, rpc := serveTLS(t, a.Server(false, "127.0.0.1"), true), serveGRPCTLS(t, a.Server(false, "127.0.0.1"))
	web.Access, rpc.Access = settings, settings
	for _, e := range []Endpoint{web, rpc} {
		_, err := deliver(t, all, e)
		wantError(t, err, codes.Unavailable, "no such file")
	}
	pem, err := os.ReadFile(a.CA)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range []Endpoint{web, rpc} {
		if _, err := deliver(t, all, e); err != nil {
			t.Errorf("%s: %v", e.Protocol, err)
		}
	}
}

// The connections of applications with different settings are kept apart, at one address too.
func TestTLSConnectionsAreKeptApart(t *testing.T) {
	a := testkit.NewAuthority(t)
	all := channels(t)
	for _, e := range []Endpoint{serveTLS(t, a.Server(false, "127.0.0.1"), true), serveGRPCTLS(t, a.Server(false, "127.0.0.1"))} {
		e.Access = &Access{TLS: &TLS{CA: a.CA}}
		if _, err := deliver(t, all, e); err != nil {
			t.Errorf("%s: %v", e.Protocol, err)
		}
		e.Access = &Access{TLS: &TLS{CA: testkit.NewAuthority(t).CA}}
		_, err := deliver(t, all, e)
		wantError(t, err, codes.Unavailable, "unknown authority")
	}
}

// Without settings the system's authorities count, and who speaks no TLS is told of as that.
func TestHTTPSWithoutSettings(t *testing.T) {
	a := testkit.NewAuthority(t)
	_, err := deliver(t, channels(t), serveTLS(t, a.Server(false, "127.0.0.1"), true))
	wantError(t, err, codes.Unavailable, "unknown authority")
	plain := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("was called") })
	plain.Protocol = HTTPS
	_, err = deliver(t, channels(t), plain)
	wantError(t, err, codes.Unavailable, "it does not speak TLS")
	nobody := endpoint(t, testkit.Nobody(t))
	nobody.Protocol = HTTPS
	_, err = deliver(t, channels(t), nobody)
	wantError(t, err, codes.Unavailable, "does not take connections")
}
