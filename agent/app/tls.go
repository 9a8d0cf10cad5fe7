package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/farcall/farcall/agent/conns"
)

// TLS is how TLS is spoken with an application. Connections are kept by its address, so it is made
// once for each application and not changed. Its files, in PEM, are read for every new connection:
// renewed ones take effect by themselves, and one that is missing or broken fails the calls until
// it is mended.
type TLS struct {
	// CA is the path of the authorities to trust; empty: the system's.
	CA string
	// Cert and Key are the paths of what is shown to the application; both are set, or neither.
	Cert, Key string
	// ServerName is the name that the application's certificate must be for; empty: the host that
	// is dialled.
	ServerName string
	// Insecure takes any certificate.
	Insecure bool
}

// handshakeTimeout bounds one TLS handshake with an application.
const handshakeTimeout = 5 * time.Second

// config reads the files; host is the one that is dialled. A nil TLS is one without settings.
func (t *TLS) config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t == nil {
		return c, nil
	}
	c.InsecureSkipVerify = t.Insecure
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no PEM certificate", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// secured are the connections over TLS of those applications that have one TLS.
type secured struct {
	http *http.Transport
	grpc *conns.Pool
}

// over gives the connections of those that speak TLS this way.
func (c *Channels) over(t *TLS) *secured {
	if s, ok := c.secured.Load(t); ok {
		return s.(*secured)
	}
	// Of two that are made at the same time one is dropped, before it has dialled.
	s, _ := c.secured.LoadOrStore(t, newSecured(t))
	return s.(*secured)
}

func newSecured(t *TLS) *secured {
	h := newTransport(false)
	h.Protocols.SetHTTP2(true)
	h.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conn, err := t.handshake(ctx, raw, addr)
		if err != nil {
			_ = raw.Close() // nothing was said on it
			return nil, &handshakeError{err}
		}
		return conn, nil
	}
	return &secured{http: h, grpc: newConns(grpc.WithTransportCredentials(newCredentials(t)))}
}

func (s *secured) close() {
	s.http.CloseIdleConnections()
	s.grpc.Close()
}

// handshake makes a connection one over TLS, over which HTTP/2 or HTTP/1.1 is spoken.
func (t *TLS) handshake(ctx context.Context, raw net.Conn, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cfg, err := t.config(host)
	if err != nil {
		return nil, err
	}
	cfg.NextProtos = []string{"h2", "http/1.1"}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("no answer within %v", handshakeTimeout))
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return conn, nil
}

// handshakeError says that a connection was made, and that TLS came to nothing on it.
type handshakeError struct{ error }

func (e *handshakeError) Unwrap() error { return e.error }

// refusals are the alerts by which an application refuses the certificate that it was shown, or that
// none was. They end a handshake and nothing later: TLS 1.3 only tells the client of them after
// this has done its part, when its request may be on the way already.
var refusals = []tls.AlertError{
	42,  // bad_certificate
	43,  // unsupported_certificate
	44,  // certificate_revoked
	45,  // certificate_expired
	46,  // certificate_unknown
	48,  // unknown_ca
	49,  // access_denied
	116, // certificate_required
}

// handshakeFailure gives what made a TLS handshake fail, nil where it was not that. A call that met
// with it was not read by the application.
func handshakeFailure(err error) error {
	var failed *handshakeError
	if errors.As(err, &failed) {
		var not tls.RecordHeaderError
		if errors.As(failed.error, &not) {
			return fmt.Errorf("it does not speak TLS: %w", failed.error)
		}
		return failed.error
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && op.Err != nil &&
		slices.ContainsFunc(refusals, func(a tls.AlertError) bool { return a.Error() == op.Err.Error() }) {
		return op
	}
	return nil
}

// clientCredentials are gRPC's, with the files read for each connection.
type clientCredentials struct {
	credentials.TransportCredentials // what is the same for all
	tls                              *TLS
}

var _ credentials.TransportCredentials = (*clientCredentials)(nil)

func newCredentials(t *TLS) *clientCredentials {
	return &clientCredentials{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), t}
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	cfg, err := c.tls.config(host)
	if err != nil {
		return nil, nil, err
	}
	// gRPC takes the name to verify from the authority, and not from the configuration.
	return credentials.NewTLS(cfg).ClientHandshake(ctx, cfg.ServerName, raw)
}

// Clone implements credentials.TransportCredentials.
func (c *clientCredentials) Clone() credentials.TransportCredentials {
	return &clientCredentials{c.TransportCredentials.Clone(), c.tls}
}
