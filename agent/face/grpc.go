package face

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
)

// maxReply bounds, in bytes, the body of an answer to InvokeService, which is one message: gRPC's
// default limit with room for the rest of the message.
const maxReply = 4<<20 - 64<<10

// GRPC is the face that applications call over gRPC: Dapr's InvokeService, the agent's own API, and
// any other method, which is proxied to the application that the call's metadata names.
type GRPC struct {
	runtimev1.UnimplementedDaprServer
	caller
	proxying
	relay *relay.Relay
	grace time.Duration
	// ending is closed when Run takes no new calls; those that would last for ever end then.
	ending <-chan struct{}
}

var _ runtimev1.DaprServer = (*GRPC)(nil)

// NewGRPC makes the face; it serves in Run.
func NewGRPC(c Config, d Deps) (*GRPC, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.Views == nil {
		return nil, errors.New("face: Views is needed")
	}
	g := &GRPC{caller: newCaller(c, d), relay: d.Relay, grace: grace(c)}
	g.listen(g.proxy, func(s grpc.ServiceRegistrar) {
		runtimev1.RegisterDaprServer(s, g)
		agentv1.RegisterAgentServer(s, &agentAPI{face: g, views: d.Views})
	})
	return g, nil
}

// Run serves on l until ctx is done; it then takes no new call, waits for those under way, for
// Config.Grace at most, cuts off the rest and returns nil. It closes l.
func (g *GRPC) Run(ctx context.Context, l net.Listener) error {
	g.ending = ctx.Done()
	return g.run(ctx, "grpc", l, g.grace)
}

// InvokeService serves one invocation.
func (g *GRPC) InvokeService(ctx context.Context, in *runtimev1.InvokeServiceRequest) (*commonv1.InvokeResponse, error) {
	record := g.relay.Begin(g.node.Identity)
	out, answer, err := g.call(ctx, in, &record)
	record.End(answer, nil)
	if header := description(answer); len(header) > 0 {
		if err := grpc.SetHeader(ctx, header); err != nil {
			return nil, err
		}
	}
	return out, err
}

func (g *GRPC) call(ctx context.Context, in *runtimev1.InvokeServiceRequest, record *relay.Record) (*commonv1.InvokeResponse, relay.Answer, error) {
	a := relay.Answer{Tier: -1}
	fail := func(e *invoke.Error) (*commonv1.InvokeResponse, relay.Answer, error) {
		a.Err = e
		return nil, a, e.GRPCStatus().Err()
	}
	md, _ := metadata.FromIncomingContext(ctx)
	ctx = record.Trace(ctx, invoke.Header(md))
	from, e := g.identifyGRPC(ctx)
	if e != nil {
		return fail(e)
	}
	record.Caller = from.Identity
	first := firstOf(md)
	query, e := g.query(from, in.GetId(), first)
	if e != nil {
		return fail(e)
	}
	record.Name = query.Name
	limit, e := timeout(first(invoke.TimeoutKey))
	if e != nil {
		return fail(e)
	}
	ctx, cancel := deadline(ctx, limit)
	defer cancel()
	req, e := g.request(in, from, md, query)
	if e != nil {
		return fail(e)
	}
	choice, e := g.relay.Route(ctx, query)
	if a = relay.Unanswered(choice); e != nil {
		return fail(e)
	}
	if choice.Strategy() == relay.Broadcast {
		return g.broadcast(ctx, choice, req)
	}
	if a = g.relay.Do(ctx, choice, req); a.Err != nil {
		return fail(a.Err)
	}
	defer a.Response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(a.Response.Body, maxReply+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return fail(invoke.FromContext(ctx))
	case err != nil:
		return fail(invoke.OutcomeUnknown("the answer was cut short: %v", err))
	case len(body) > maxReply:
		return fail(invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "the answer is larger than %d bytes", maxReply))
	}
	out, err := reply(ctx, a.Response, body)
	return out, a, err
}

// firstOf gives the first value of a key, in whatever case it is asked for.
func firstOf(md metadata.MD) func(key string) string {
	return func(key string) string {
		if v := md.Get(key); len(v) > 0 {
			return v[0]
		}
		return ""
	}
}

// request makes the model of a call. Metadata keeps its lower-case keys, by which a daprd knows
// that it came over gRPC; binary values become base64.
func (g *GRPC) request(in *runtimev1.InvokeServiceRequest, from *who, md metadata.MD, q relay.Query) (*invoke.Request, *invoke.Error) {
	msg := in.GetMessage()
	if msg == nil {
		return nil, invoke.Invalid("message is nil")
	}
	method, err := invoke.MethodFromWire(msg.GetMethod())
	if err != nil {
		return nil, invoke.AsError(err)
	}
	if err := invoke.CheckQuery(msg.GetHttpExtension().GetQuerystring()); err != nil {
		return nil, invoke.AsError(err)
	}
	verb := invoke.VerbFromProto(msg.GetHttpExtension().GetVerb())
	if verb == http.MethodConnect {
		return nil, invoke.Invalid("invalid HTTP verb %s", verb)
	}
	header := make(invoke.Header, len(md))
	for k, v := range md {
		if strings.HasSuffix(k, "-bin") {
			encoded := make([]string, len(v))
			for i := range v {
				encoded[i] = base64.StdEncoding.EncodeToString([]byte(v[i]))
			}
			v = encoded
		}
		header[k] = v
	}
	r := &invoke.Request{
		Service:     q.Name.Service,
		Verb:        verb,
		Method:      method,
		Query:       msg.GetHttpExtension().GetQuerystring(),
		ContentType: msg.GetContentType(),
		TypeURL:     msg.GetData().GetTypeUrl(),
		Header:      g.header(header, from, q.Name.Service),
		Head:        msg.GetData().GetValue(),
	}
	r.Length = int64(len(r.Head))
	return r, nil
}

// reply turns an application's answer into InvokeService's: its headers become response metadata,
// and a status that is no success becomes a gRPC status, as Dapr does.
func reply(ctx context.Context, r *invoke.Response, body []byte) (*commonv1.InvokeResponse, error) {
	header := toMetadata(r.Header, r.HTTP())
	if r.HTTP() {
		header.Set("dapr-http-status", strconv.Itoa(r.Status))
	}
	// SetHeader and SetTrailer fail only where the stream is over, and then nobody listens.
	_ = grpc.SetHeader(ctx, header)
	_ = grpc.SetTrailer(ctx, toMetadata(r.Trailer, false))
	switch {
	case r.HTTP():
		if err := httpStatusError(r.Status, body); err != nil {
			return nil, err
		}
	case r.Status != 0:
		return nil, status.FromProto(&spb.Status{Code: int32(r.Status), Message: r.Message, Details: r.Details}).Err()
	}
	return &commonv1.InvokeResponse{
		Data:        &anypb.Any{TypeUrl: r.TypeURL, Value: body},
		ContentType: r.ContentType,
	}, nil
}

// httpStatusError gives the gRPC status for an HTTP application's, nil for 2xx.
func httpStatusError(code int, body []byte) error {
	c := invoke.GRPCFromHTTP(code)
	if c == codes.OK {
		return nil
	}
	const most = 63 // bytes of the application's words that Dapr hands on
	text := http.StatusText(code)
	st, err := status.New(c, text).WithDetails(&errdetails.ErrorInfo{
		Reason: text,
		Domain: "dapr.io",
		Metadata: map[string]string{
			"http.code":          strconv.Itoa(code),
			"http.error_message": strings.ToValidUTF8(string(body[:min(len(body), most)]), ""),
		},
	})
	if err != nil {
		return status.Error(c, text)
	}
	return st.Err()
}

// toMetadata turns an answer's headers into gRPC metadata; what cannot stand there is left out.
func toMetadata(h invoke.Header, fromHTTP bool) metadata.MD {
	md := make(metadata.MD, len(h)+1)
	for k, values := range h {
		key := strings.ToLower(k)
		if fromHTTP && invoke.PermanentHTTPHeader(k) {
			key = "dapr-" + key
		}
		if invoke.HopByHop(key) || invoke.Ours(key) || key == "content-length" || key == "content-type" || !invoke.ValidMetadataKey(key) {
			continue
		}
		for _, v := range values {
			if v, ok := invoke.MetadataValue(key, v); ok {
				md[key] = append(md[key], v)
			}
		}
	}
	return md
}
