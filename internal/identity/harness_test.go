package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
	"github.com/farcall/farcall/internal/testkit"
)

const domain = "example.org"

func newAuthority(t testing.TB) *authority.Authority {
	t.Helper()
	a, err := authority.New(domain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// files are one process's certificate, key and authorities on disk.
type files struct {
	t   testing.TB
	dir string
}

func newFiles(t testing.TB) files { return files{t, t.TempDir()} }

func (f files) path(name string) string { return filepath.Join(f.dir, name+".pem") }

func (f files) config() identity.Config {
	return identity.Config{Cert: f.path("cert"), Key: f.path("key"), CA: f.path("ca")}
}

// put writes a file as a whole.
func (f files) put(name string, b []byte) {
	f.t.Helper()
	at := f.path(name)
	if err := errors.Join(os.WriteFile(at+".new", b, 0o600), os.Rename(at+".new", at)); err != nil {
		f.t.Fatal(err)
	}
}

// issue writes a certificate of the identity and its key.
func (f files) issue(a *authority.Authority, id identity.ID, valid time.Duration) {
	f.t.Helper()
	cert, key, err := a.Issue(id, time.Now(), valid)
	if err != nil {
		f.t.Fatal(err)
	}
	f.put("cert", cert)
	f.put("key", key)
}

// trust writes the authorities that are believed.
func (f files) trust(all ...*authority.Authority) {
	f.t.Helper()
	var b []byte
	for _, a := range all {
		cert, _, err := a.PEM()
		if err != nil {
			f.t.Fatal(err)
		}
		b = append(b, cert...)
	}
	f.put("ca", b)
}

// source is a Source with what it counts and logs.
type source struct {
	*identity.Source
	metrics *prometheus.Registry
	log     *lines
}

func newSource(t testing.TB, c identity.Config) *source {
	t.Helper()
	s, err := makeSource(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func makeSource(c identity.Config) (*source, error) {
	s := &source{metrics: prometheus.NewRegistry(), log: &lines{}}
	var err error
	s.Source, err = identity.New(c, identity.Deps{Log: slog.New(slog.NewTextHandler(s.log, nil)), Metrics: s.metrics})
	return s, err
}

// of makes a Source of an identity, with files of its own.
func of(t testing.TB, a *authority.Authority, id identity.ID) (*source, files) {
	t.Helper()
	f := newFiles(t)
	f.issue(a, id, time.Hour)
	f.trust(a)
	return newSource(t, f.config()), f
}

// count gives the sum of a counter over the series that have all of the labels.
func (s *source) count(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && has(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func has(m *dto.Metric, labels []string) bool {
	for _, want := range labels {
		found := false
		for _, l := range m.GetLabel() {
			found = found || l.GetName()+"="+l.GetValue() == want
		}
		if !found {
			return false
		}
	}
	return true
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve runs a gRPC server that lets in whom may says, and gives its address.
func serve(t testing.TB, s *source, may identity.Authorise, options ...grpc.ServerOption) string {
	t.Helper()
	srv := grpc.NewServer(append(options, grpc.Creds(s.ServerCredentials(may)), grpc.WaitForHandlers(true))...)
	healthv1.RegisterHealthServer(srv, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "server", func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		<-ctx.Done()
		srv.Stop()
		return <-ended
	})
	return l.Addr().String()
}

// dial connects once and makes one call.
func dial(ctx context.Context, address string, c credentials.TransportCredentials) error {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(c), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// sign makes a certificate with these URIs, and the files that show it.
func (f files) sign(a *authority.Authority, valid time.Duration, uris ...string) {
	f.t.Helper()
	template := &x509.Certificate{DNSNames: []string{"localhost"}}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			f.t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	cert, key, err := a.Sign(template, time.Now(), valid)
	if err != nil {
		f.t.Fatal(err)
	}
	f.put("cert", cert)
	f.put("key", key)
}

// wants says how an error, which must be one, differs from what is wanted.
func wants(err error, words string) error {
	if err == nil || !strings.Contains(err.Error(), words) {
		return fmt.Errorf("%v, want %q", err, words)
	}
	return nil
}

// serveForged runs a server that shows what it was given, and looks at nobody.
func serveForged(t testing.TB, c *tls.Config) string {
	t.Helper()
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(c)))
	healthv1.RegisterHealthServer(srv, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "forged server", func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		<-ctx.Done()
		srv.Stop()
		return <-ended
	})
	return l.Addr().String()
}
