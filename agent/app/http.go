package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/farcall/farcall/agent/invoke"
)

func newTransport(h2c bool) *http.Transport {
	t := &http.Transport{
		DialContext:        (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
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
	host := e.hostPort()
	req := &http.Request{
		Method:     r.Verb,
		URL:        &url.URL{Scheme: "http", Host: host, Path: "/" + r.Method, RawQuery: r.Query},
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     httpHeader(r),
		Host:       host,
	}
	switch {
	case r.Rest != nil:
		req.Body = streamBody{r.Rest}
		req.ContentLength = r.Length
	case len(r.Head) > 0:
		req.Body = io.NopCloser(bytes.NewReader(r.Head))
		req.ContentLength = int64(len(r.Head))
		if len(r.Header["Idempotency-Key"]) == 0 && len(r.Header["X-Idempotency-Key"]) == 0 {
			// The transport may then send again what it proved it never wrote, on another
			// connection than the stale one. With those headers it would also repeat what may
			// have been executed, which is not ours to decide.
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Head)), nil }
		}
	}
	return req.WithContext(ctx)
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

func httpError(ctx context.Context, e Endpoint, r *invoke.Request, err error) *invoke.Error {
	if r.Rest != nil && r.Rest.Err() != nil {
		return invoke.BodyError(ctx, r.Rest.Err())
	}
	if err := invoke.FromContext(ctx); err != nil {
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return invoke.NotDispatched(invoke.ReasonAppDown, "application %s does not take connections: %v", r.Service, op.Err)
	}
	return invoke.OutcomeUnknown("application %s at %s: %v", r.Service, e.hostPort(), err)
}
