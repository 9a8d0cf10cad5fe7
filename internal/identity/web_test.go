package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/testkit"
)

// A listener's certificate is another as soon as its files are, a broken one leaves the last good one,
// and with authorities for clients nobody comes in without a certificate of theirs.
func TestWeb(t *testing.T) {
	ctx := testkit.Context(t)
	ca, clients := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := ca.Issue("web", "127.0.0.1")
	log := &lines{}
	web, err := identity.NewWeb("http", identity.WebConfig{Cert: cert, Key: key, CA: clients.CA}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "web", web.Run)
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(ca.CA)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(clients.Issue("scraper"))
	if err != nil {
		t.Fatal(err)
	}
	// serial gives that of the certificate that is shown now; both sides must be content.
	serial := func(shown ...tls.Certificate) (string, error) {
		here, there := net.Pipe()
		defer here.Close()
		defer there.Close()
		server := tls.Server(there, web.Config())
		ended := make(chan error, 1)
		go func() { ended <- server.HandshakeContext(ctx) }()
		conn := tls.Client(here, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", Certificates: shown})
		err := conn.HandshakeContext(ctx)
		if err == nil {
			go func() { _, _ = conn.Read(make([]byte, 1)) }() // takes what the server says after the handshake
			err = <-ended
		}
		if err != nil {
			here.Close()
			return "", err
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	first, err := serial(own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serial(); err == nil {
		t.Error("a client without a certificate came in")
	}
	stranger, err := tls.LoadX509KeyPair(ca.Issue("stranger"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serial(stranger); err == nil {
		t.Error("a client with another authority's certificate came in")
	}

	if err := os.WriteFile(cert, pem[:len(pem)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "it is told", func() error {
		return wants(fmt.Errorf("%s", log), "the new certificate of a listener cannot be used")
	})
	if now, err := serial(own); err != nil || now != first {
		t.Errorf("the last good one is not in force: %v", err)
	}
	ca.Issue("web", "127.0.0.1")
	testkit.Eventually(t, ctx, "the new one is shown", func() error {
		now, err := serial(own)
		if err == nil && now == first {
			err = fmt.Errorf("still %s", now)
		}
		return err
	})
	if _, err := identity.NewWeb("http", identity.WebConfig{Cert: ca.CA, Key: key}, testkit.Quiet()); err == nil {
		t.Error("a certificate with another's key was taken")
	}
}
