package face

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
)

// maxReplay is the largest body, in bytes, that is read before its call is sent, so that the call
// can be sent again. A larger one, or one of unknown length, streams and is sent once.
const maxReplay = 64 << 10

// target finds what a request calls, as Dapr does (pkg/api/http/directmessaging.go): by the header
// dapr-app-id, else by basic authentication as user "dapr-app-id", else by the path. path is the
// method, not yet normalised.
func target(r *http.Request) (app, path string, ok bool) {
	if app := r.Header.Get(invoke.DaprAppID); app != "" {
		return app, r.URL.Path, true
	}
	if user, app, ok := r.BasicAuth(); ok && strings.EqualFold(user, invoke.DaprAppID) && app != "" && !strings.Contains(app, ":") {
		return app, r.URL.Path, true
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1.0/invoke/")
	if !ok {
		return "", "", false
	}
	app, path, ok = strings.Cut(rest, "/method/")
	if !ok || app == "" {
		return "", "", false
	}
	if u, err := url.QueryUnescape(app); err == nil {
		app = u
	}
	return app, path, true
}

// request makes the model of a call, but for its body.
func (h *HTTP) request(r *http.Request, from *who, q relay.Query, path string) (*invoke.Request, *invoke.Error) {
	method, err := invoke.NormalizeMethod(path)
	if err != nil {
		return nil, invoke.AsError(err)
	}
	if err := invoke.CheckQuery(r.URL.RawQuery); err != nil {
		return nil, invoke.AsError(err)
	}
	for _, v := range r.Header["Content-Length"] {
		// Over HTTP/2 Go takes what is no number for 0, and of several the first.
		if n, err := strconv.ParseUint(v, 10, 63); err != nil || int64(n) != r.ContentLength {
			return nil, invoke.Invalid("Content-Length %.40q is not the body's length", strings.Join(r.Header["Content-Length"], ", "))
		}
	}
	verb := invoke.VerbToProto(r.Method).String()
	if verb == http.MethodConnect {
		return nil, invoke.Invalid("invalid HTTP verb %s", verb)
	}
	return &invoke.Request{
		Service:     q.Name.Service,
		Verb:        verb,
		Method:      method,
		Query:       r.URL.RawQuery,
		ContentType: r.Header.Get("Content-Type"),
		Header:      h.header(invoke.Header(r.Header), from, q.Name.Service),
		Length:      r.ContentLength,
	}, nil
}

// readBody reads a body of up to limit bytes that states its length, within ctx's deadline, and
// leaves any other to stream.
func readBody(ctx context.Context, w http.ResponseWriter, r *http.Request, req *invoke.Request, limit int64) *invoke.Error {
	rc := http.NewResponseController(w)
	switch {
	case r.ContentLength == 0:
		return nil
	case r.ContentLength < 0 || r.ContentLength > limit:
		// An application may answer before it has read all. net/http would otherwise first read
		// the body to its end; HTTP/2 needs no such word, and says so by an error.
		_ = rc.EnableFullDuplex()
		req.Rest = invoke.NewStream(r.Body, func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) })
		return nil
	}
	req.Head = make([]byte, r.ContentLength)
	return underDeadline(ctx, rc, func() error {
		_, err := io.ReadFull(r.Body, req.Head)
		return err
	})
}

// underDeadline reads from a connection, no longer than ctx's deadline.
func underDeadline(ctx context.Context, rc *http.ResponseController, read func() error) *invoke.Error {
	// Without support for deadlines the caller's pace rules, as without a timeout.
	at, limited := ctx.Deadline()
	if limited {
		_ = rc.SetReadDeadline(at)
	}
	err := read()
	switch {
	case err == nil:
		if limited {
			_ = rc.SetReadDeadline(time.Time{})
		}
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline stays, else net/http would wait for the body before it writes the answer.
		return invoke.Errorf(codes.DeadlineExceeded, invoke.ReasonDeadline, "the call's deadline passed before its body was there")
	default:
		return invoke.BodyError(ctx, err)
	}
}

// readWhole reads a body of whatever form into memory, up to limit bytes.
func readWhole(ctx context.Context, w http.ResponseWriter, r *http.Request, req *invoke.Request, limit int64) *invoke.Error {
	tooLarge := invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "the body is larger than %d bytes", limit)
	if r.ContentLength > limit {
		return tooLarge
	}
	if r.ContentLength >= 0 {
		return readBody(ctx, w, r, req, limit)
	}
	if e := underDeadline(ctx, http.NewResponseController(w), func() (err error) {
		req.Head, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
		return err
	}); e != nil {
		return e
	}
	if req.Length = int64(len(req.Head)); req.Length > limit {
		return tooLarge
	}
	return nil
}

func containsFold(names []string, k string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, k) })
}
