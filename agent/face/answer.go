package face

import (
	"bytes"
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

// writeAnswer writes what the application said. An error says that it was cut short; where it has
// not begun, another answer can be given in its place.
func writeAnswer(w http.ResponseWriter, r *http.Request, a relay.Answer) (begun bool, err error) {
	resp := a.Response
	h := w.Header()
	copyHeader(h, resp)
	describe(h, a)
	if !resp.HTTP() && resp.Status != 0 {
		// As Dapr: the caller gets the gRPC status in place of the body.
		h.Set("Content-Type", "application/json")
		w.WriteHeader(resp.HTTPStatus())
		_, err = w.Write(statusJSON(resp))
		return true, err
	}
	status := resp.HTTPStatus()
	bodyless := strings.EqualFold(r.Method, http.MethodHead) || status == http.StatusNoContent || status == http.StatusNotModified
	if resp.Length >= 0 && (!bodyless || (r.Method == http.MethodHead && resp.Length > 0)) {
		h.Set("Content-Length", strconv.FormatInt(resp.Length, 10))
	}
	out := &bodyWriter{w: w, status: status, drop: bodyless}
	if resp.Length < 0 && !bodyless {
		// It streams: each piece goes out as it comes, the headers before the first.
		out.rc = http.NewResponseController(w)
		out.begin()
		if err := out.flush(); err != nil {
			return true, err
		}
	}
	n, err := invoke.Copy(out, resp.Body)
	if err == nil && resp.Length >= 0 && !bodyless && n != resp.Length {
		err = invoke.OutcomeUnknown("the answer ended after %d of %d bytes", n, resp.Length)
	}
	if err == nil {
		out.begin()
	}
	return out.status == 0, err
}

// statusJSON gives a gRPC status as Dapr does. protojson puts blanks in it here and there, which go.
func statusJSON(resp *invoke.Response) []byte {
	var out bytes.Buffer
	b, err := protojson.Marshal(&internalsv1.Status{Code: int32(resp.Status), Message: resp.Message, Details: resp.Details})
	if err == nil {
		err = json.Compact(&out, b)
	}
	if err != nil {
		// A detail of a type that this agent does not know.
		b, _ = json.Marshal(map[string]any{"code": resp.Status, "message": resp.Message})
		return b
	}
	return out.Bytes()
}

// copyHeader writes an application's headers as an HTTP caller gets them.
func copyHeader(h http.Header, resp *invoke.Response) {
	named := invoke.ConnectionNames(resp.Header)
	for k, v := range resp.Header {
		if len(v) == 0 || invoke.HopByHop(k) || invoke.Ours(k) || containsFold(named, k) || !httpguts.ValidHeaderFieldName(k) {
			continue
		}
		switch k = http.CanonicalHeaderKey(k); {
		case k == "Content-Length", k == "Content-Type":
			continue
		case strings.HasSuffix(k, "-Bin"):
			continue // gRPC's binary metadata, which Dapr does not hand to HTTP either
		case strings.HasPrefix(k, "Grpc-"):
			k = "Dapr-" + k // as Dapr, so that it does not pass for gRPC's own
		}
		if old := h[k]; old != nil {
			v = slices.Concat(old, v)
		}
		h[k] = v
	}
	switch {
	case resp.TypeURL != "":
		h["Content-Type"] = []string{"application/x-protobuf"}
	case resp.ContentType != "":
		h["Content-Type"] = []string{resp.ContentType}
	default:
		// Says to net/http: none, rather than a guess from the first bytes.
		h["Content-Type"] = nil
	}
}

// bodyWriter writes an answer's body, and tells the caller's failures from the application's.
type bodyWriter struct {
	w      http.ResponseWriter
	rc     *http.ResponseController // set where each piece is to go out at once
	status int                      // what is still to be said before the body; 0 once it was
	drop   bool
}

// begin writes the head, if that is still to be done.
func (b *bodyWriter) begin() {
	if b.status != 0 {
		b.w.WriteHeader(b.status)
		b.status = 0
	}
}

// writeFailure says that the caller could not be written to.
type writeFailure struct{ error }

func (f *writeFailure) Unwrap() error { return f.error }

func (b *bodyWriter) Write(p []byte) (int, error) {
	if b.drop {
		return len(p), nil
	}
	b.begin()
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
