package face

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// writeError writes an answer that no application gave.
func writeError(w http.ResponseWriter, a relay.Answer) {
	describe(w.Header(), a)
	writeJSON(w, a.Err.HTTPStatus(), errorBody{a.Err.Reason, a.Err.Message})
}

// writeAnswer writes what the application said; an error says that it was cut short.
func writeAnswer(w http.ResponseWriter, r *http.Request, a relay.Answer) error {
	resp := a.Response
	h := w.Header()
	copyHeader(h, resp)
	describe(h, a)
	if !resp.HTTP() && resp.Status != 0 {
		// As Dapr: the caller gets the gRPC status in place of the body.
		h.Set("Content-Type", "application/json")
		b, err := protojson.Marshal(&internalsv1.Status{Code: int32(resp.Status), Message: resp.Message, Details: resp.Details})
		if err != nil {
			// A detail of a type that this agent does not know.
			b, _ = json.Marshal(map[string]any{"code": resp.Status, "message": resp.Message})
		}
		w.WriteHeader(resp.HTTPStatus())
		_, err = w.Write(b)
		return err
	}
	status := resp.HTTPStatus()
	bodyless := r.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	if resp.Length >= 0 && (!bodyless || (r.Method == http.MethodHead && resp.Length > 0)) {
		h.Set("Content-Length", strconv.FormatInt(resp.Length, 10))
	}
	w.WriteHeader(status)
	out := &bodyWriter{w: w, drop: bodyless}
	if resp.Length < 0 && !bodyless {
		// It streams: each piece goes out as it comes, the headers before the first.
		out.rc = http.NewResponseController(w)
		if err := out.flush(); err != nil {
			return err
		}
	}
	n, err := invoke.Copy(out, resp.Body)
	if err == nil && resp.Length >= 0 && !bodyless && n != resp.Length {
		return invoke.OutcomeUnknown("the answer ended after %d of %d bytes", n, resp.Length)
	}
	return err
}

// copyHeader writes an application's headers as an HTTP caller gets them.
func copyHeader(h http.Header, resp *invoke.Response) {
	named := invoke.ConnectionNames(resp.Header)
	for k, v := range resp.Header {
		if len(v) == 0 || invoke.HopByHop(k) || invoke.Ours(k) || containsFold(named, k) || !httpguts.ValidHeaderFieldName(k) {
			continue
		}
		switch k = http.CanonicalHeaderKey(k); k {
		case "Content-Length", "Content-Type":
			continue
		}
		if strings.HasSuffix(k, "-Bin") {
			continue // gRPC's binary metadata, which Dapr does not hand to HTTP either
		}
		if old := h[k]; old != nil {
			v = slices.Concat(old, v)
		}
		h[k] = v
	}
	if resp.ContentType != "" {
		h["Content-Type"] = []string{resp.ContentType}
	} else {
		// Says to net/http: none, rather than a guess from the first bytes.
		h["Content-Type"] = nil
	}
}

// bodyWriter writes an answer's body, and tells the caller's failures from the application's.
type bodyWriter struct {
	w    http.ResponseWriter
	rc   *http.ResponseController // set where each piece is to go out at once
	drop bool
}

// writeFailure says that the caller could not be written to.
type writeFailure struct{ error }

func (f *writeFailure) Unwrap() error { return f.error }

func (b *bodyWriter) Write(p []byte) (int, error) {
	if b.drop {
		return len(p), nil
	}
	n, err := b.w.Write(p)
	if err != nil {
		return n, &writeFailure{err}
	}
	return n, b.flush()
}

func (b *bodyWriter) flush() error {
	if b.rc == nil {
		return nil
	}
	if err := b.rc.Flush(); err != nil {
		return &writeFailure{err}
	}
	return nil
}
