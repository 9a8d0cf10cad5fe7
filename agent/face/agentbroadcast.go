package face

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// maxTarget bounds, in bytes, the body of one target of Broadcast: gRPC's default limit for a
// message, with room for the headers, of which an application may send 256 KiB.
const maxTarget = 4<<20 - 320<<10

// Broadcast makes a call at one instance of each cluster, and sends what comes of each as it comes
// in. That too few succeeded is said in the summary, and is no error of the stream.
func (a *agentAPI) Broadcast(in *agentv1.BroadcastRequest, stream agentv1.Agent_BroadcastServer) error {
	record := a.face.relay.Begin(a.face.node.Identity)
	answer, err := a.broadcast(in, stream, &record)
	record.End(answer, nil)
	// Where messages were sent the header is gone already, and only now the attempts are known.
	stream.SetTrailer(metadata.MD{invoke.AttemptsKey: description(answer)[invoke.AttemptsKey]})
	return err
}

func (a *agentAPI) broadcast(in *agentv1.BroadcastRequest, stream agentv1.Agent_BroadcastServer, record *relay.Record) (relay.Answer, error) {
	answer := relay.Answer{Tier: -1}
	fail := func(e *invoke.Error) (relay.Answer, error) {
		answer.Err = e
		// It fails only where the call is over, and then nobody listens.
		_ = stream.SetHeader(description(answer))
		return answer, e.GRPCStatus().Err()
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	header := a.header(in, md)
	ctx := record.Trace(stream.Context(), header)
	from, e := a.face.identifyGRPC(ctx)
	if e != nil {
		return fail(e)
	}
	record.Caller = from.Identity
	query, limit, e := a.broadcastQuery(in, from, md, header)
	if e != nil {
		return fail(e)
	}
	record.Name = query.Name
	ctx, cancel := deadline(ctx, limit)
	defer cancel()
	req, e := a.request(in, from, header, query.Name.Service)
	if e != nil {
		return fail(e)
	}
	choice, e := a.face.relay.Route(ctx, query)
	if e != nil {
		return fail(e)
	}
	about := description(relay.Unanswered(choice))
	delete(about, invoke.AttemptsKey)
	// As above: it fails only where the call is over.
	_ = stream.SetHeader(about)
	var sent error
	replies := a.face.relay.Broadcast(ctx, choice, req, maxTarget, func(r *relay.Reply) {
		if sent == nil {
			sent = stream.Send(&agentv1.BroadcastResponse{What: &agentv1.BroadcastResponse_Target_{Target: targetMessage(r)}})
		}
	})
	answer = replies.Answer()
	switch {
	case sent != nil:
		return answer, sent
	case len(replies.List) == 0:
		return answer, answer.Err.GRPCStatus().Err()
	case answer.Err == nil:
		answer.Response = &invoke.Response{Status: http.StatusMultiStatus}
	}
	return answer, stream.Send(&agentv1.BroadcastResponse{What: &agentv1.BroadcastResponse_Summary_{Summary: &agentv1.BroadcastResponse_Summary{
		Targets:    uint32(len(replies.List)),
		Succeeded:  uint32(replies.Succeeded()),
		MinSuccess: uint32(replies.MinSuccess()),
		Met:        answer.Err == nil,
	}}})
}

// header gives the headers of the call to make. Their keys get HTTP's spelling, which tells a
// daprd what kind of call it is; the trace is that of this very stream where they name none.
func (a *agentAPI) header(in *agentv1.BroadcastRequest, md metadata.MD) invoke.Header {
	h := make(http.Header, len(in.GetHeaders())+2)
	// In order, so that two spellings of one key always give the same.
	for _, k := range slices.Sorted(maps.Keys(in.GetHeaders())) {
		h.Add(k, in.GetHeaders()[k])
	}
	if len(h["Traceparent"]) == 0 {
		for _, k := range []string{"traceparent", "tracestate"} {
			if v := md[k]; len(v) > 0 {
				h[http.CanonicalHeaderKey(k)] = v
			}
		}
	}
	return invoke.Header(h)
}

// broadcastQuery reads whom a broadcast is for, and within what time.
func (a *agentAPI) broadcastQuery(in *agentv1.BroadcastRequest, from *who, md metadata.MD, h invoke.Header) (relay.Query, time.Duration, *invoke.Error) {
	said := firstOf(md)
	if s := said(invoke.StrategyKey); s != "" && s != relay.Broadcast {
		return relay.Query{}, 0, invoke.Invalid("%s %.40q: this call is a %s", invoke.StrategyKey, s, relay.Broadcast)
	}
	name, err := catalog.ParseName(in.GetService(), from.Namespace)
	if err != nil {
		return relay.Query{}, 0, invoke.Invalid("%v", err)
	}
	limit, e := timeout(said(invoke.TimeoutKey))
	if e != nil {
		return relay.Query{}, 0, e
	}
	if in.GetTimeout() != nil {
		d := in.GetTimeout().AsDuration()
		if d <= 0 {
			return relay.Query{}, 0, invoke.Invalid("timeout %v: want a positive duration", d)
		}
		if limit == 0 || d < limit {
			limit = d
		}
	}
	return relay.Query{
		Name: name, Strategy: relay.Broadcast, Cluster: said(invoke.ClusterKey), Header: http.Header(h).Get,
	}, limit, nil
}

// verbs are what BroadcastRequest.verb may say: the HTTP methods that Dapr's wire can.
var verbs = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodPatch,
}

// request makes the model of the call.
func (a *agentAPI) request(in *agentv1.BroadcastRequest, from *who, h invoke.Header, service string) (*invoke.Request, *invoke.Error) {
	method, err := invoke.NormalizeMethod(in.GetMethod())
	if err != nil {
		return nil, invoke.AsError(err)
	}
	verb := in.GetVerb()
	if verb == "" {
		verb = http.MethodPost
	}
	if !slices.Contains(verbs, verb) {
		return nil, invoke.Invalid("verb %.40q: want one of %s", verb, strings.Join(verbs, ", "))
	}
	r := &invoke.Request{
		Service:     service,
		Verb:        verb,
		Method:      method,
		Query:       in.GetQuery(),
		ContentType: in.GetContentType(),
		Header:      a.face.header(h, from, service),
		Length:      int64(len(in.GetBody())),
		Head:        in.GetBody(),
	}
	if r.ContentType == "" {
		r.ContentType = h.First("Content-Type")
	}
	return r, nil
}

// targetMessage is what a stream says of one target. Its strings are UTF-8, as messages are.
func targetMessage(r *relay.Reply) *agentv1.BroadcastResponse_Target {
	out := &agentv1.BroadcastResponse_Target{
		Cluster:  r.Cluster,
		Body:     r.Body,
		Reason:   r.Reason(),
		Error:    r.Failure(),
		Attempts: uint32(r.Attempts),
	}
	if r.Tried != nil {
		out.Instance = r.Tried.Instance
	}
	if r.Err != nil {
		out.Error = strings.ToValidUTF8(r.Err.Message, "\uFFFD")
	}
	if r.Response == nil {
		return out
	}
	out.Status = uint32(r.Response.HTTPStatus())
	header := replyHeader(r)
	out.Headers = make(map[string]*agentv1.HeaderValues, len(header))
	for k, v := range header {
		list := &agentv1.HeaderValues{Values: make([]string, len(v))}
		for i := range v {
			list.Values[i] = strings.ToValidUTF8(v[i], "\uFFFD")
		}
		out.Headers[k] = list
	}
	return out
}
