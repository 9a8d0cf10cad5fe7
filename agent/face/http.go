package face

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
)

// HTTP is the face that applications call over HTTP/1.1 or HTTP/2, with or without TLS: Dapr's invoke
// API, health and metadata.
type HTTP struct {
	caller
	config   Config
	relay    *relay.Relay
	own      Own
	grace    time.Duration
	server   *http.Server
	draining atomic.Bool
}

// NewHTTP makes the face; it serves in Run.
func NewHTTP(c Config, d Deps) (*HTTP, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	h := &HTTP{caller: newCaller(c, d), config: c, relay: d.Relay, own: d.Own, grace: grace(c)}
	h.server = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         new(http.Protocols),
		ErrorLog:          serverLog(d.Log),
	}
	h.server.Protocols.SetHTTP1(true)
	h.server.Protocols.SetUnencryptedHTTP2(true)
	h.server.Protocols.SetHTTP2(true) // where the listener has a certificate
	return h, nil
}

// Run serves on l until ctx is done; it then takes no new call, waits for those under way, for
// Config.Grace at most, cuts off the rest and returns nil. It closes l.
func (h *HTTP) Run(ctx context.Context, l net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- h.server.Serve(l) }()
	select {
	case err := <-ended:
		return listening("http", l, err)
	case <-ctx.Done():
	}
	h.BeginDrain()
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.grace)
	defer cancel()
	if h.server.Shutdown(wait) != nil {
		// The grace is over. Close can only fail on listeners, which Shutdown has closed.
		_ = h.server.Close()
	}
	<-ended
	return nil
}

// BeginDrain makes health say that this agent is going; calls are still taken.
func (h *HTTP) BeginDrain() { h.draining.Store(true) }

// healthPath is that of Dapr's health API, which asks for no token.
const healthPath = "/v1.0/healthz"

// ServeHTTP routes one request. As with Dapr, whatever is not one of the fixed paths is an
// invocation.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Compared as a whole and never by part: a path that only contains one of these is no
	// exception to anything (Dapr's CVE-2023-37918).
	switch r.URL.Path {
	case healthPath, healthPath + "/outbound":
		h.health(w, r)
	case metadataPath:
		h.metadata(w, r)
	default:
		if key, ok := strings.CutPrefix(r.URL.Path, metadataPath+"/"); ok && r.Method == http.MethodPut && !strings.Contains(key, "/") {
			h.setMetadata(w, r, key)
			return
		}
		h.invoke(w, r)
	}
}

func (h *HTTP) health(w http.ResponseWriter, r *http.Request) {
	outbound := r.URL.Path != healthPath
	if h.draining.Load() {
		code := "ERR_HEALTH_NOT_READY"
		if outbound {
			code = "ERR_OUTBOUND_HEALTH_NOT_READY"
		}
		writeJSON(w, http.StatusInternalServerError, errorBody{code, "the agent is draining"})
		return
	}
	if id := r.URL.Query().Get("appid"); id != "" && !outbound && !h.hasApp(id) {
		writeJSON(w, http.StatusInternalServerError, errorBody{"ERR_HEALTH_APPID_NOT_MATCH", "no application of this node has that app-id"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *HTTP) hasApp(id string) bool {
	for n := range h.apps {
		if n.Service == id {
			return true
		}
	}
	_, ok := h.own.Any(id)
	return ok
}

// identify finds whom a request is from.
func (h *HTTP) identify(r *http.Request) (*who, *invoke.Error) {
	return h.identities.identify(source(r.RemoteAddr), r.Header.Get(invoke.APIToken))
}

// errorBody is Dapr's.
type errorBody struct {
	ErrorCode string `json:"errorCode"`
	Message   string `json:"message"`
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		// What is written here are strings and numbers; this is for whoever changes that.
		b, status = []byte(`{"errorCode":"INTERNAL","message":"the answer cannot be written"}`), http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A caller that went away needs no answer.
	_, _ = w.Write(b)
}

// invoke serves one invocation.
func (h *HTTP) invoke(w http.ResponseWriter, r *http.Request) {
	record := h.relay.Begin(h.node.Identity)
	answer, err := h.call(w, r, &record)
	record.End(answer, err)
	if err != nil {
		// The answer has begun and cannot be finished. This is net/http's way to cut it off, so
		// that the caller does not take half of it for the whole.
		panic(http.ErrAbortHandler)
	}
}

// call makes the call and writes its answer; an error says that the answer was cut short.
func (h *HTTP) call(w http.ResponseWriter, r *http.Request, record *relay.Record) (relay.Answer, error) {
	fail := func(a relay.Answer, e *invoke.Error) (relay.Answer, error) {
		a.Err = e
		writeError(w, a)
		return a, nil
	}
	none := relay.Answer{Tier: -1}
	ctx := record.Trace(r.Context(), invoke.Header(r.Header))
	from, e := h.identify(r)
	if e != nil {
		return fail(none, e)
	}
	record.Caller = from.Identity
	app, path, ok := target(r)
	if !ok {
		return fail(none, invoke.Errorf(codes.NotFound, errNoAppID, "failed getting app id either from the URL path or the header dapr-app-id"))
	}
	query, e := h.query(from, app, r.Header.Get)
	if e != nil {
		return fail(none, e)
	}
	record.Name = query.Name
	limit, e := timeout(r.Header.Get(invoke.TimeoutKey))
	if e != nil {
		return fail(none, e)
	}
	req, e := h.request(r, from, query, path)
	if e != nil {
		return fail(none, e)
	}
	ctx, cancel := deadline(ctx, limit)
	defer cancel()
	choice, e := h.relay.Route(ctx, query)
	if e != nil {
		return fail(relay.Unanswered(choice), e)
	}
	if choice.Strategy() == relay.Broadcast {
		return h.broadcast(ctx, w, r, choice, req)
	}
	if e := readBody(ctx, w, r, req, maxReplay); e != nil {
		return fail(relay.Unanswered(choice), e)
	}
	if req.Rest != nil {
		// However the call ends, nobody may go on reading the body after it.
		defer req.Rest.Stop()
	}
	answer := h.relay.Do(ctx, choice, req)
	if answer.Err != nil {
		writeError(w, answer)
		return answer, nil
	}
	begun, err := writeAnswer(w, r, answer)
	if err != nil {
		// Where it was the caller who went away, the instance is not to blame.
		var gone *writeFailure
		if errors.As(err, &gone) {
			cancel()
		}
	}
	answer.Response.Body.Close()
	if err != nil && !begun {
		// As if it had never been answered.
		clear(w.Header())
		answer.Response = nil
		return fail(answer, peerFailure(ctx, err))
	}
	return answer, err
}

// errNoAppID is Dapr's word for a path that names nobody.
const errNoAppID = "ERR_DIRECT_INVOKE"
