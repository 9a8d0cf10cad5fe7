package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Reason is why somebody was refused: a word for metrics.
type Reason string

// The reasons.
const (
	ReasonNoCertificate Reason = "no_certificate" // it showed none
	ReasonNoIdentity    Reason = "no_identity"    // no URI in its certificate, or one that is no SPIFFE identity
	ReasonTwoIdentities Reason = "two_identities" // more than one URI
	ReasonTrustDomain   Reason = "trust_domain"   // another trust domain's
	ReasonAuthority     Reason = "authority"      // signed by nobody who is trusted, any more or yet
	ReasonExpired       Reason = "expired"        // its time is over, or has not come
	ReasonCertificate   Reason = "certificate"    // its certificate is wrong otherwise
	ReasonRole          Reason = "role"           // not what may be on that side of this connection
	ReasonOther         Reason = "other"          // the right role, and another one than is wanted
	ReasonPlaintext     Reason = "plaintext"      // it does not speak TLS
	ReasonHandshake     Reason = "handshake"      // the handshake broke off: too slow, gone, another TLS
	ReasonRemote        Reason = "remote"         // it is the other side who refused
	ReasonNotReady      Reason = "not_ready"      // there is no own identity yet
)

// Refusal is why the other side of a connection, or a caller on it, was refused.
type Refusal struct {
	Reason Reason
	// ID is what its certificate says, be it unproven; empty where it says nothing.
	ID  string
	Why string
}

// Error says who was refused, as far as that is known, and why.
func (r *Refusal) Error() string {
	if r.ID == "" {
		return r.Why
	}
	return r.ID + ": " + r.Why
}

// reasonOf gives the reason of a handshake's failure.
func reasonOf(err error) Reason {
	var r *Refusal
	var header tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &r):
		return r.Reason
	case errors.As(err, &header):
		return ReasonPlaintext
	case errors.As(err, &op) && op.Op == "remote error":
		return ReasonRemote
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return ReasonNoCertificate // crypto/tls has no type for it
	}
	return ReasonHandshake
}

// wrong says what is wrong with a certificate that did not verify.
func wrong(err error) *Refusal {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Refusal{Reason: ReasonExpired, Why: "its certificate has expired or is not valid yet: " + invalid.Detail}
	case errors.As(err, &unknown):
		return &Refusal{Reason: ReasonAuthority, Why: "its certificate was signed by no authority that is trusted here"}
	}
	return &Refusal{Reason: ReasonCertificate, Why: err.Error()}
}

// quiet says that a failure is no news to anybody: whoever came has gone without a word.
func quiet(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// aBurst is how many lines about refusals are logged at once; then one a second, so that those who
// knock cannot fill a disk.
const aBurst = 10

// taps lets so many lines through. It is safe for concurrent use.
type taps struct {
	mu      sync.Mutex
	left    float64
	at      time.Time
	dropped int
}

// take reports whether a line may be logged now, and how many were not since the last one.
func (t *taps) take(now time.Time) (dropped int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at.IsZero() {
		t.left = aBurst
	} else {
		t.left = min(aBurst, t.left+now.Sub(t.at).Seconds())
	}
	t.at = now
	if t.left < 1 {
		t.dropped++
		return 0, false
	}
	t.left--
	dropped, t.dropped = t.dropped, 0
	return dropped, true
}

// refused counts and logs that a handshake came to nothing.
func (s *Source) refused(side string, remote net.Addr, err error) {
	reason := reasonOf(err)
	s.metrics.refused.WithLabelValues(side, string(reason)).Inc()
	if !quiet(err) {
		s.tell("handshake", remote, reason, err)
	}
}

// tell logs a refusal, unless there were too many just now. Err names the other side by its identity,
// never by anything secret.
func (s *Source) tell(call string, remote net.Addr, reason Reason, err error) {
	dropped, ok := s.taps.take(time.Now())
	if !ok {
		return
	}
	log := s.log.With("call", call, "reason", string(reason), "error", err)
	if remote != nil {
		log = log.With("remote", remote.String())
	}
	if dropped > 0 {
		log = log.With("not_logged", dropped)
	}
	log.Warn("refused")
}
