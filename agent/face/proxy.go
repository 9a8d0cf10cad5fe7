package face

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/catalog"
)

// proxying is a gRPC server that proxies calls of methods which none of its services has.
type proxying struct {
	server   *grpc.Server
	services map[string]grpc.ServiceInfo
	// readers counts the goroutines that read what callers say; each ends with its call's stream.
	readers sync.WaitGroup
}

// listen makes the server: register registers its services, and unknown gets all other calls.
func (p *proxying) listen(unknown grpc.StreamHandler, register func(grpc.ServiceRegistrar), more ...grpc.ServerOption) {
	p.server = grpc.NewServer(slices.Concat(serverOptions(), proxy.ServerOptions(unknown), more)...)
	register(proxy.Limited(p.server))
	p.services = p.server.GetServiceInfo()
}

// run is runGRPC for this server.
func (p *proxying) run(ctx context.Context, what string, l net.Listener, grace time.Duration) error {
	err := runGRPC(ctx, what, p.server, l, grace)
	p.readers.Wait()
	return err
}

// methodOf gives a call's method. One that a registered service would have, if it had it, is nobody
// else's: the error is what a server without proxying says.
func (p *proxying) methodOf(stream grpc.ServerStream) (string, error) {
	full, _ := grpc.MethodFromServerStream(stream)
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if _, ours := p.services[service]; ours {
		return "", status.Errorf(codes.Unimplemented, "unknown method %s for service %s", method, service)
	}
	return full, nil
}

// proxied is one proxied call at a face for applications or sidecars.
type proxied struct {
	caller  *caller
	relay   *relay.Relay
	stream  grpc.ServerStream
	readers *sync.WaitGroup
	method  string
	md      metadata.MD
	// identify says whom the call is from, and in which namespace a name is looked up.
	identify func(ctx context.Context, md metadata.MD) (from *who, namespace string, e *invoke.Error)
	answered bool
}

// serve makes the call, and gives the status that its handler ends with.
func (p *proxied) serve() error {
	p.md, _ = metadata.FromIncomingContext(p.stream.Context())
	record := p.relay.Begin(p.caller.node.Identity)
	answer, end := p.call(&record)
	record.End(answer, nil)
	if !p.answered {
		// There was no header, be it that the application sent none.
		p.stream.SetTrailer(description(answer))
	}
	if answer.Err != nil {
		return answer.Err.GRPCStatus().Err()
	}
	p.stream.SetTrailer(proxy.Answer(end.Trailer))
	return end.Status.Err()
}

func (p *proxied) call(record *relay.Record) (relay.Answer, proxy.Ending) {
	fail := func(a relay.Answer, e *invoke.Error) (relay.Answer, proxy.Ending) {
		a.Err = e
		return a, proxy.Ending{}
	}
	none := relay.Answer{Tier: -1}
	ctx := record.Trace(p.stream.Context(), traceOf(p.md))
	from, namespace, e := p.identify(ctx, p.md)
	if e != nil {
		return fail(none, e)
	}
	record.Caller = from.Identity
	query, e := p.query(namespace)
	if e != nil {
		return fail(none, e)
	}
	record.Name = query.Name
	limit, e := timeout(query.Header(invoke.TimeoutKey))
	if e != nil {
		return fail(none, e)
	}
	ctx, cancel := deadline(ctx, limit)
	call := proxy.NewCall(p.stream, p.method, p.md["content-type"], cancel)
	defer call.End()
	call.Read(p.readers)
	choice, e := p.relay.Route(ctx, query)
	if e == nil && choice.Strategy() == relay.Broadcast {
		e = invoke.Errorf(codes.FailedPrecondition, invoke.ReasonUnsupported,
			"a proxied gRPC call goes to one instance, and the strategy is %s: name another one in %s, or in a policy for %s", relay.Broadcast, invoke.StrategyKey, query.Name)
	}
	if e != nil {
		return fail(relay.Unanswered(choice), e)
	}
	call.Service, call.Header = query.Name.Service, p.header(from, query.Name.Service)
	return p.relay.Proxy(ctx, choice, call, p.began)
}

// query reads whom the call is for, and what its caller says of how it shall be treated.
func (p *proxied) query(namespace string) (relay.Query, *invoke.Error) {
	app, e := appID(p.md, p.method)
	if e != nil {
		return relay.Query{}, e
	}
	name, err := catalog.ParseName(app, namespace)
	if err != nil {
		return relay.Query{}, invoke.Invalid("%v", err)
	}
	first := firstOf(p.md)
	return relay.Query{Name: name, Strategy: first(invoke.StrategyKey), Cluster: first(invoke.ClusterKey), Header: first}, nil
}

// appID gives whom a call is for. Where it does not say, the code is daprd's.
func appID(md metadata.MD, method string) (string, *invoke.Error) {
	if app := proxy.AppID(md); app != "" {
		return app, nil
	}
	return "", invoke.Errorf(codes.Unknown, invoke.ReasonInvalid,
		"%s is no method of this server, and cannot be proxied: the call's metadata has no %s", method, invoke.DaprAppID)
}

// header is what the callee gets of the call's metadata, with who calls whom; md becomes it.
func (p *proxied) header(from *who, callee string) metadata.MD {
	h := proxy.Header(p.md, false)
	h[invoke.CallerAppID] = from.appID
	if from.namespace != nil {
		h[invoke.CallerNamespace] = from.namespace
	}
	h[invoke.CalleeAppID] = []string{callee}
	return h
}

// began writes the header of the answer.
func (p *proxied) began(header metadata.MD, a relay.Answer) error {
	header = proxy.Answer(header)
	for k, v := range description(a) {
		header[k] = v
	}
	p.answered = true
	return p.stream.SendHeader(header)
}

// traceOf gives the trace context of a call as Record.Trace reads it.
func traceOf(md metadata.MD) invoke.Header {
	parent := proxy.TraceParent(md)
	if parent == "" {
		return nil
	}
	return invoke.Header{"traceparent": {parent}, "tracestate": md["tracestate"]}
}

// proxy serves a call of a method that is none of the agent's own.
func (g *GRPC) proxy(_ any, stream grpc.ServerStream) error {
	method, err := g.methodOf(stream)
	if err != nil {
		return err
	}
	p := proxied{
		caller: &g.caller, relay: g.relay, stream: stream, readers: &g.readers, method: method,
		identify: func(ctx context.Context, _ metadata.MD) (*who, string, *invoke.Error) {
			from, e := g.identifyGRPC(ctx)
			if e != nil {
				return nil, "", e
			}
			return from, from.Namespace, nil
		},
	}
	return p.serve()
}

// proxy makes the call that a sidecar proxies. A sidecar says the namespace of its application.
func (d *Dapr) proxy(_ any, stream grpc.ServerStream) error {
	method, err := d.methodOf(stream)
	if err != nil {
		return err
	}
	p := proxied{
		caller: &d.caller, relay: d.relay, stream: stream, readers: &d.readers, method: method,
		identify: func(ctx context.Context, md metadata.MD) (*who, string, *invoke.Error) {
			if e := refuseRelayed(ctx); e != nil {
				return nil, "", e
			}
			from := d.locate(sourceOf(ctx))
			namespace := ""
			if v := md[invoke.CallerNamespace]; len(v) > 0 {
				namespace = v[len(v)-1] // what the sidecar appends to what its application said
			}
			return from, cmp.Or(namespace, from.Namespace), nil
		},
	}
	return p.serve()
}

// proxy delivers a call of whatever method to an own instance: exactly the one that an agent
// means, or for a sidecar any of the application that is named.
func (p *Peer) proxy(_ any, stream grpc.ServerStream) error {
	method, err := p.methodOf(stream)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	call := proxy.NewCall(stream, method, metadata.ValueFromIncomingContext(ctx, "content-type"), cancel)
	defer call.End()
	admitted, e := p.admit(ctx)
	if e != nil {
		return p.refuse(ctx, stream, e)
	}
	defer p.metrics.begin()()
	md, _ := metadata.FromIncomingContext(ctx)
	own, e := p.named(admitted, md, method)
	if e != nil {
		return p.refuse(ctx, stream, e)
	}
	call.Service, call.Header = own.Instance.Service, proxy.Header(md, true)
	call.Header[invoke.CalleeAppID] = []string{call.Service}
	call.Read(&p.readers)
	to, e := p.apps.Open(ctx, own.App, call)
	if e != nil {
		return p.refuse(ctx, stream, e)
	}
	end, e := call.Run(ctx, to, func(header metadata.MD) error { return stream.SendHeader(proxy.Answer(header)) })
	if e != nil {
		return p.refuse(ctx, stream, e)
	}
	trailer := proxy.Answer(end.Trailer)
	if admitted.agent {
		trailer[invoke.StatusByKey] = byApplication
	}
	stream.SetTrailer(trailer)
	p.metrics.count(codes.OK)
	return end.Status.Err()
}

var byApplication, byAgent = []string{invoke.ByApplication}, []string{invoke.ByAgent}

// named gives the own instance that a proxied call is for.
func (p *Peer) named(a admission, md metadata.MD, method string) (OwnInstance, *invoke.Error) {
	if a.agent {
		return a.own, nil
	}
	app, e := appID(md, method)
	if e != nil {
		return OwnInstance{}, e
	}
	// As daprd does: the namespace, which is the caller's word, is not looked at.
	id, _, _ := strings.Cut(app, ".")
	own, ok := p.own.Any(id)
	if id == "" || !ok {
		return OwnInstance{}, invoke.NotDispatched(invoke.ReasonUnknownTarget, "no available instance of %q on this node", id)
	}
	return own, nil
}

// refuse gives the status of a proxied call that the application did not end.
func (p *Peer) refuse(ctx context.Context, stream grpc.ServerStream, e *invoke.Error) error {
	stream.SetTrailer(metadata.MD{invoke.StatusByKey: byAgent})
	return p.failed(ctx, e, stream.SetTrailer)
}
