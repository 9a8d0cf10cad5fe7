package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/farcall/farcall/agent/invoke"
)

// dialer makes the connections to HTTP applications.
var dialer = &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}

func newTransport(h2c bool) *http.Transport {
	t := &http.Transport{
		DialContext:        dialer.DialContext,
		DisableCompression: true,
		// Dapr's bound; calls beyond it wait for a connection until their deadline.
		MaxConnsPerHost:        1024,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(!h2c)
	t.Protocols.SetUnencryptedHTTP2(h2c)
	return t
}

func (c *Channels) deliverHTTP(ctx context.Context, t *http.Transport, e Endpoint, r *invoke.Request) (*invoke.Response, error) {
	switch r.Verb {
	case "":
		return nil, invoke.Invalid("missing HTTP extension field: %q is an HTTP application", r.Service)
	case http.MethodConnect:
		return nil, invoke.Invalid("invalid HTTP verb %s", r.Verb)
	}
	// A RoundTrip and no Client: no redirects, no cookies, no timer.
	resp, err := t.RoundTrip(httpRequest(ctx, e, r))
	if err != nil {
		return nil, httpError(ctx, e, r, err)
	}
	if resp.StatusCode < 200 {
		// What is below 100 would pass for a gRPC code, and nobody has asked for another protocol.
		resp.Body.Close()
		return nil, invoke.OutcomeUnknown("application %s at %s: it answered with status %d", r.Service, e.hostPort(), resp.StatusCode)
	}
	h := invoke.Header(resp.Header)
	named := invoke.ConnectionNames(h)
	contentType := h.First("Content-Type")
	for k := range h {
		if k == "Content-Type" || k == "Content-Length" || invoke.HopByHop(k) || invoke.Ours(k) || containsFold(named, k) {
			delete(h, k)
		}
	}
	return &invoke.Response{
		Status:      resp.StatusCode,
		ContentType: contentType,
		Header:      h,
		Length:      resp.ContentLength,
		Body:        resp.Body,
	}, nil
}

func httpRequest(ctx context.Context, e Endpoint, r *invoke.Request) *http.Request {
	host, scheme := e.hostPort(), "http"
	if e.Protocol == HTTPS {
		scheme = "https"
	}
	req := &http.Request{
		Method:     r.Verb,
		URL:        target(scheme, host, r),
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     httpHeader(e, r),
		Host:       host,
	}
	switch {
	case r.Rest != nil:
		req.Body = streamBody{r.Rest}
		req.ContentLength = r.Length
	case len(r.Head) > 0:
		req.Body = io.NopCloser(bytes.NewReader(r.Head))
		req.ContentLength = int64(len(r.Head))
		if !repeats(req.Header) {
			// The transport may then send again what it proved it never wrote, on another
			// connection than the stale one.
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Head)), nil }
		}
	case repeats(req.Header):
		// A body, though empty, that cannot be had a second time.
		req.Body = io.NopCloser(bytes.NewReader(nil))
	}
	return req.WithContext(ctx)
}

// repeats reports whether Go's transport would send a call again, if it could, that may have been
// executed. That is not its to decide.
func repeats(h http.Header) bool {
	return len(h["Idempotency-Key"]) > 0 || len(h["X-Idempotency-Key"]) > 0
}

// spelt are characters that Go escapes in a path and nearly nobody else does, such as the brackets
// around OData's keys.
var spelt = strings.NewReplacer("%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*")

// target is the URL of a call. Its path is the method, spelt in one way only.
func target(scheme, host string, r *invoke.Request) *url.URL {
	u := &url.URL{Scheme: scheme, Host: host, Path: "/" + r.Method, RawQuery: r.Query}
	if strings.ContainsAny(r.Method, "!'()*") {
		u.RawPath = spelt.Replace(u.EscapedPath())
	}
	return u
}

// streamBody makes the transport's Close of a body stop whoever reads it. One that nobody has
// begun, since there was no connection to write it to, may still go elsewhere.
type streamBody struct{ *invoke.Stream }

func (b streamBody) Close() error {
	if b.Begun() {
		b.Stop()
	}
	return nil
}

// notEstablished is net/http's word, which it does not export, for a connection over HTTP/2 that was
// closed before the first request was written on it.
const notEstablished = "http2: client conn could not be established"

func httpError(ctx context.Context, e Endpoint, r *invoke.Request, err error) *invoke.Error {
	if r.Rest != nil && r.Rest.Err() != nil {
		return invoke.BodyError(ctx, r.Rest.Err())
	}
	if err := invoke.FromContext(ctx); err != nil {
		return err
	}
	if why := handshakeFailure(err); why != nil {
		return invoke.NotDispatched(invoke.ReasonAppDown, "application %s at %s: TLS handshake: %v", r.Service, e.hostPort(), why)
	}
	if err.Error() == notEstablished {
		return invoke.NotDispatched(invoke.ReasonAppDown, "application %s at %s closed the connection before the call was sent", r.Service, e.hostPort())
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return invoke.NotDispatched(invoke.ReasonAppDown, "application %s does not take connections: %v", r.Service, op.Err)
	}
	return invoke.OutcomeUnknown("application %s at %s: %v", r.Service, e.hostPort(), err)
}
