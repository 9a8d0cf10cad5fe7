package identity

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// The sides of a connection, in metrics.
const (
	sideServer = "server"
	sideClient = "client"
)

// ServerConfig is the TLS of a server that lets in whom may says. Both sides show a certificate, and
// each is looked at anew for every connection.
func (s *Source) ServerConfig(may Authorise) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert, // VerifyConnection says which
		NextProtos: []string{"h2"},
		// A resumed session would not show again who it is.
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate() },
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := s.peer(c, may)
			return err
		},
	}
}

// ClientConfig is the TLS of a client that speaks with whom may says and nobody else.
func (s *Source) ClientConfig(may Authorise) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// An identity is no host's name: VerifyConnection holds the other side to it.
		InsecureSkipVerify:   true, //nolint:gosec // G402: see above; the chain is verified, too
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.certificate() },
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := s.peer(c, may)
			return err
		},
	}
}

func (s *Source) certificate() (*tls.Certificate, error) {
	if st := s.state.Load(); st != nil {
		return &st.cert, nil
	}
	return nil, errNotReady
}

// ServerCredentials are ServerConfig for gRPC. The identity of a call's caller is in FromContext.
func (s *Source) ServerCredentials(may Authorise) credentials.TransportCredentials {
	return &secured{credentials.NewTLS(s.ServerConfig(may)), s}
}

// ClientCredentials are ClientConfig for gRPC.
func (s *Source) ClientCredentials(may Authorise) credentials.TransportCredentials {
	return &secured{credentials.NewTLS(s.ClientConfig(may)), s}
}

// secured are gRPC's own credentials, and an eye on how handshakes end.
type secured struct {
	credentials.TransportCredentials
	s *Source
}

var _ credentials.TransportCredentials = (*secured)(nil)

// ServerHandshake implements credentials.TransportCredentials.
func (c *secured) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	remote := raw.RemoteAddr()
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	return c.done(sideServer, remote, conn, info, err)
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *secured) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	remote := raw.RemoteAddr()
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	return c.done(sideClient, remote, conn, info, err)
}

func (c *secured) done(side string, remote net.Addr, conn net.Conn, info credentials.AuthInfo, err error) (net.Conn, credentials.AuthInfo, error) {
	if err != nil {
		c.s.refused(side, remote, err)
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.PeerCertificates) == 0 || len(t.State.PeerCertificates[0].URIs) != 1 {
		_ = conn.Close() // nothing was said on it
		return nil, nil, &Refusal{Reason: ReasonNoCertificate, Why: "it showed no certificate"}
	}
	// The handshake has verified it.
	id, err := Parse(t.State.PeerCertificates[0].URIs[0].String())
	if err != nil {
		_ = conn.Close() // nothing was said on it
		return nil, nil, err
	}
	c.s.metrics.handshakes.WithLabelValues(side).Inc()
	return conn, Info{t, id}, nil
}

// Clone implements credentials.TransportCredentials.
func (c *secured) Clone() credentials.TransportCredentials {
	return &secured{c.TransportCredentials.Clone(), c.s}
}

// Info is what gRPC keeps of a connection whose other side has proven who it is.
type Info struct {
	credentials.TLSInfo
	ID ID
}

// FromContext gives who made a call, as the handshake of its connection proved it; false where nobody
// was asked to.
func FromContext(ctx context.Context) (ID, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ID{}, false
	}
	info, ok := p.AuthInfo.(Info)
	return info.ID, ok
}

// Refuse counts and logs that a call was refused because of who made it; call is a word for metrics, one
// of a few. It gives why back.
func (s *Source) Refuse(ctx context.Context, call string, why error) error {
	s.metrics.claims.WithLabelValues(call).Inc()
	var remote net.Addr
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr
	}
	s.tell(call, remote, ReasonOther, why)
	return why
}
