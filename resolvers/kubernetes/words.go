package kubernetes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// words says in one line what was asked, where, what is wrong, and where it can be said, how it
// is mended. What errors.Is and errors.As find in err is still found.
func (c *connection) words(verb string, t *table, err error) error {
	hint := ""
	name, authority, network := x509.HostnameError{}, x509.UnknownAuthorityError{}, (*net.OpError)(nil)
	switch {
	case apierrors.IsForbidden(err) && t.resource == "nodes":
		hint = "give it the role farcall-registry-regions in deploy/kubernetes/rbac.yaml, or leave regions out"
	case apierrors.IsForbidden(err):
		hint = "give it the role in deploy/kubernetes/rbac.yaml"
	case apierrors.IsUnauthorized(err):
		hint = "the API server does not know the token or certificate of " + c.origin + ": renew it"
	case apierrors.IsNotFound(err):
		hint = "is the server in " + c.origin + " a Kubernetes API server, 1.21 or later?"
	case errors.As(err, &name):
		hint = "name the server in " + c.origin + " as its certificate does, or set tls-server-name there"
	case errors.As(err, &authority):
		hint = "the certificate authority in " + c.origin + " is not that of this API server"
	case strings.HasPrefix(err.Error(), "serializer for "): // client-go has no type for it
		hint = "is this a Kubernetes API server?"
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		hint = "is the server in " + c.origin + " the right one, and up?"
	case errors.Is(err, context.DeadlineExceeded):
		hint = "is the server in " + c.origin + " up, and may this host reach it?"
	}
	if e := (*url.Error)(nil); errors.As(err, &e) && !errors.Is(err, context.DeadlineExceeded) {
		err = e.Err // without the URL and its parameters
	}
	return &failure{text: plain(fmt.Sprintf("kubernetes: %s %s: %v", verb, t, err), hint), cause: err}
}

// silence is that no answer came within a time.
func silence(within time.Duration) error {
	return &failure{text: fmt.Sprintf("no answer within %s", within), cause: context.DeadlineExceeded}
}

// failure is an error in plain words.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// plain makes somebody else's text fit for a log line: on one line and short, with the hint.
func plain(s, hint string) string {
	const most = 400
	if s = strings.Join(strings.Fields(s), " "); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	if hint != "" {
		s += ": " + hint
	}
	return s
}

// expired reports whether a watch cannot be resumed: the API server no longer has what came
// after its revision.
func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// answered reports whether an error is the API server's own word.
func answered(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status)
}

// stale reports whether an error may go away with what the kubeconfig and its files say by now.
func stale(err error) bool {
	certificate := (*tls.CertificateVerificationError)(nil)
	return apierrors.IsUnauthorized(err) || errors.As(err, &certificate)
}
