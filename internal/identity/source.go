package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Config says where a process gets its identity from: Cert, Key and CA, or WorkloadAPI.
type Config struct {
	// Cert, Key and CA are paths of PEM files: the certificate, with the intermediate ones behind it;
	// its key; and the authorities whose certificates are believed.
	Cert, Key, CA string
	// WorkloadAPI is unix:///path of a SPIFFE Workload API's socket.
	WorkloadAPI string
	// Self is whose identity it must be.
	Self Self
}

// Self is what is known of an identity before it is there. The zero Self is anybody.
type Self struct {
	Role Role
	// Cluster and Node are an agent's.
	Cluster, Node string
}

// check says why an identity is not the one that is wanted, and how to get that, or nil.
func (s Self) check(id ID) error {
	switch {
	case s.Role == "" || s.Role == id.Role && s.Role != Agent:
		return nil
	case s.Role == Agent:
		if id.Role == Agent && id.Cluster == s.Cluster && id.Name == s.Node {
			return nil
		}
		return fmt.Errorf("the certificate is for %s; this is the agent of node %q of cluster %q and must have spiffe://%s/cluster/%s/agent/%s (farcall certs agent %s %s)",
			id, s.Node, s.Cluster, id.TrustDomain, s.Cluster, s.Node, s.Cluster, s.Node)
	}
	return fmt.Errorf("the certificate is for %s; this is a %s and must have spiffe://%s/%s/<name> (farcall certs %s <name>)",
		id, s.Role, id.TrustDomain, s.Role, s.Role)
}

// Deps are what a Source uses and does not make.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Source is a process's identity and those whom it believes, as they are now. Its methods are safe for
// concurrent use.
type Source struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	state   atomic.Pointer[state] // nil while there is no identity yet
	files   []byte                // what the files in force held; Run's
	taps    taps
}

// state is an identity that is in force. It is not changed.
type state struct {
	id     ID
	domain spiffeid.TrustDomain
	bundle *x509bundle.Bundle
	cert   tls.Certificate
}

// New makes a Source. Files are read, and must be right; a Workload API is asked by Run, so that
// until it has answered there is no identity and every handshake fails.
func New(cfg Config, deps Deps) (*Source, error) {
	s := &Source{cfg: cfg, log: deps.Log, metrics: newMetrics(deps.Metrics)}
	if cfg.WorkloadAPI != "" {
		return s, nil
	}
	found, err := readFiles(cfg.Cert, cfg.Key, cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if err := s.take(found); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return s, nil
}

// Run keeps the identity up to date until ctx is done and returns ctx.Err(). What is new and wrong
// is logged and counted, and leaves the last good identity in force.
func (s *Source) Run(ctx context.Context) error {
	if s.cfg.WorkloadAPI != "" {
		return s.followWorkloadAPI(ctx)
	}
	watch := &watcher{paths: []string{s.cfg.Cert, s.cfg.Key, s.cfg.CA}, have: s.files}
	return watch.run(ctx, s.take, s.changed)
}

// changed counts and logs that the own identity is another, or was to be.
func (s *Source) changed(err error) {
	if err != nil {
		s.metrics.reloads.WithLabelValues("failed").Inc()
		s.log.Error("the new certificate, key or authorities cannot be used; the last good ones stay in force", "error", err)
		return
	}
	s.metrics.reloads.WithLabelValues("ok").Inc()
	st := s.state.Load()
	s.log.Info("identity", "spiffe_id", st.id.String(), "expires", st.cert.Leaf.NotAfter, "authorities", len(st.bundle.X509Authorities()))
}

// take puts what the files hold in force, if it is right.
func (s *Source) take(found *contents) error {
	pair, err := found.pair()
	if err != nil {
		return err
	}
	authorities, err := found.authorities()
	if err != nil {
		return err
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s: a key of this kind cannot sign", s.cfg.Key)
	}
	if err := s.use(found.chain, signer, authorities); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Cert, err)
	}
	s.files = found.bytes()
	return nil
}

// use puts an identity in force, if it is the process's own and those who believe the same
// authorities would believe it.
func (s *Source) use(chain []*x509.Certificate, key crypto.Signer, authorities []*x509.Certificate) error {
	sid, err := x509svid.IDFromCert(chain[0])
	if err != nil {
		return fmt.Errorf("%w: want exactly one URI, the SPIFFE identity", err)
	}
	st := &state{domain: sid.TrustDomain(), bundle: x509bundle.FromX509Authorities(sid.TrustDomain(), authorities)}
	if st.id, err = verified(st, chain); err != nil {
		return err
	}
	if err := s.cfg.Self.check(st.id); err != nil {
		return err
	}
	st.cert = tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		st.cert.Certificate = append(st.cert.Certificate, c.Raw)
	}
	s.state.Store(st)
	s.metrics.expiry.Set(float64(chain[0].NotAfter.Unix()))
	return nil
}

// ID is the own identity, and whether there is one yet.
func (s *Source) ID() (ID, bool) {
	if st := s.state.Load(); st != nil {
		return st.id, true
	}
	return ID{}, false
}

// Trouble says why nobody will believe this process now, empty where all is well.
func (s *Source) Trouble(now time.Time) string {
	switch st := s.state.Load(); {
	case st == nil:
		return "no identity yet from the Workload API at " + s.cfg.WorkloadAPI
	case now.After(st.cert.Leaf.NotAfter):
		return fmt.Sprintf("the certificate of %s expired at %s", st.id, st.cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	return ""
}

var errNotReady = &Refusal{Reason: ReasonNotReady, Why: "there is no own identity yet"}

// verified gives the identity that a chain of certificates proves to those who trust as st does.
func verified(st *state, chain []*x509.Certificate) (ID, error) {
	if len(chain) == 0 {
		return ID{}, &Refusal{Reason: ReasonNoCertificate, Why: "it showed no certificate"}
	}
	switch n := len(chain[0].URIs); {
	case n == 0:
		return ID{}, &Refusal{Reason: ReasonNoIdentity, Why: "its certificate holds no URI, so no SPIFFE identity"}
	case n > 1:
		// Who is let in by one of them could be somebody else by the other (Consul's CVE-2022-40716).
		return ID{}, &Refusal{Reason: ReasonTwoIdentities, Why: fmt.Sprintf("its certificate holds %d URIs, where exactly one is an identity", n)}
	}
	sid, err := spiffeid.FromURI(chain[0].URIs[0])
	if err != nil {
		return ID{}, &Refusal{Reason: ReasonNoIdentity, Why: "the URI in its certificate is no SPIFFE identity: " + err.Error()}
	}
	claimed := fmt.Sprintf("%.300s", sid.String())
	if sid.TrustDomain() != st.domain {
		return ID{}, &Refusal{Reason: ReasonTrustDomain, ID: claimed, Why: "it is of another trust domain than " + st.domain.Name()}
	}
	if _, _, err := x509svid.Verify(chain, st.bundle); err != nil {
		r := wrong(err)
		r.ID = claimed
		return ID{}, r
	}
	id, err := parse(sid)
	if err != nil {
		return ID{}, &Refusal{Reason: ReasonRole, Why: err.Error()}
	}
	return id, nil
}

// peer gives the identity of the other side of a connection, if it may be there.
func (s *Source) peer(c tls.ConnectionState, may Authorise) (ID, error) {
	st := s.state.Load()
	if st == nil {
		return ID{}, errNotReady
	}
	id, err := verified(st, c.PeerCertificates)
	if err != nil {
		return ID{}, err
	}
	if err := may(id); err != nil {
		var r *Refusal
		if !errors.As(err, &r) {
			r = &Refusal{Reason: ReasonOther, Why: err.Error()}
		}
		return ID{}, &Refusal{Reason: r.Reason, ID: id.String(), Why: r.Why}
	}
	return id, nil
}
