//go:build real && linux

package e2e

import "fmt"

// The two ends of a call.
const (
	appSees    = "the application sees"
	callerGets = "the caller gets"
)

// difference is one that is meant. Lists are separated by "; ".
type difference struct {
	of   string // the cases; all, if empty
	end  string
	what string
	why  string
}

func (d difference) key() string { return fmt.Sprintf("%s: %s: %s (%s)", d.of, d.end, d.what, d.why) }

// deliberate is all in which two agents differ from two daprds v1.14.
var deliberate = []difference{
	{"", callerGets, "header Farcall-*; header farcall-*", "an agent says who served a call and why; nobody else may"},
	{"", appSees, "header Dapr-Caller-Namespace; metadata dapr-caller-namespace", "daprd says it since 1.16"},
	{"", appSees, "header X-Forwarded-Host; header Forwarded; metadata x-forwarded-host; metadata forwarded", "the node's name is configured, and need not be the host's"},
	{"", appSees, "header Accept-Encoding", "daprd's client asks for gzip by itself, though its caller did not"},
	{"", appSees, "header User-Agent; metadata user-agent", "each client's own name, where the caller said none"},
	{"", appSees, "header Dapr-Authority; metadata dapr-authority", "each listener's own address; a gRPC application gets it too, as it does of other reserved names"},
	{"", appSees, "metadata grpc-trace-bin", "daprd says it, empty, without a span"},
	{"", callerGets, "header grpc-trace-bin; trailer grpc-trace-bin", "daprd says it, empty, without a span"},

	// Paths: what is judged is what is dispatched.
	{"path: *; by header, escaped", appSees, "target", "a path is decoded, cleaned and written anew, as Dapr does since 1.18 (GO-2026-5242)"},
	{"refused: *; gRPC to HTTP, query in the method", appSees, "calls", "they would cut the path; Dapr refuses them since 1.18"},
	{"refused: *; gRPC to HTTP, query in the method", callerGets, "status", "they would cut the path; Dapr refuses them since 1.18"},
	{"escaped percent", appSees, "calls", "daprd does not get a percent sign through"},
	{"escaped percent; escaped NUL", callerGets, "status", "daprd denies permission for what it cannot parse"},
	{"gRPC to HTTP, blank in the query", callerGets, "status", "it is refused by the agent, and not by the application as a malformed request"},

	// Bodies.
	{"POST without a body; POST of length 0; TRACE; gRPC to HTTP*", appSees, "coding; length; header Content-Length", "a known length reaches the application, and a call without a body has none"},
	{"answer in chunks; answer's trailer", callerGets, "coding; length; header Content-Length", "daprd takes in a small answer before it writes it; the agent writes it as it comes"},
	{"CONNECT; gRPC to HTTP, no verb; gRPC to HTTP, bare; gRPC to HTTP, CONNECT", callerGets, "status", "codes are honest: it is the caller's mistake"},

	// Headers that are for the next server only, and what a caller says of itself.
	{"by header*", appSees, "header Dapr-App-Id", "it was for the agent; daprd takes it away since 1.18"},
	{"authorization", appSees, "header Proxy-Authorization", "hop by hop (RFC 9110); daprd takes it away since 1.18"},
	{"hop by hop; upgrade", appSees, "header Connection; header Http2-Settings; header Keep-Alive; header Proxy-Connection; header Te; header Upgrade; header X-Mine", "hop by hop (RFC 9110); daprd takes them away since 1.18"},
	{"answer's hop by hop", callerGets, "header Connection; header Keep-Alive; header Proxy-Authenticate; header Upgrade; header X-Secret", "hop by hop (RFC 9110); daprd takes them away since 1.18"},
	{"identity; gRPC to gRPC, identity", appSees, "header Dapr-Api-Token; metadata dapr-api-token", "the token was for the agent (GO-2024-2879)"},
	{"identity", appSees, "header Dapr-Caller-App-Id; header Dapr-Callee-App-Id", "daprd hands on what the caller says of itself"},
	{"trace", appSees, "header Baggage", "the first only, as Dapr since 1.18"},
	{"Latin-1", appSees, "calls", "daprd fails at what is no UTF-8; the agent replaces it"},
	{"Latin-1", callerGets, "status", "daprd fails at what is no UTF-8; the agent replaces it"},
	{"expect", appSees, "header Expect", "it was for the agent, which asks for the body when the application wants it"},
	{"answer without a type", callerGets, "header Content-Type", "daprd guesses one"},

	// Where one of the two speaks gRPC.
	{"HTTP to gRPC", appSees, "metadata dapr-content-length", "the message has its length"},
	{"HTTP to gRPC, binary", appSees, "metadata x-some-bin", "daprd does not decode it unless it is spelt in lower case"},
	{"HTTP to gRPC, its error; HTTP to gRPC, its refusal; HTTP to gRPC, its odd code", callerGets, "header Content-Type", "it is JSON; daprd guesses that it is text"},
	{"HTTP to gRPC, its odd code", callerGets, "body; length; header Content-Length", "a code that gRPC does not have is Unknown"},
	{"gRPC to gRPC, its odd code", callerGets, "status", "a code that gRPC does not have is Unknown"},
	{"gRPC to HTTP*", callerGets, "header dapr-content-length; header dapr-content-type", "the message has both"},
	{"gRPC to HTTP, its headers", callerGets, "header x-some-bin", "daprd does not decode it unless it is spelt in lower case"},
	{"gRPC to HTTP, its headers", callerGets, "header x-utf", "gRPC's metadata is ASCII"},
	{"gRPC to HTTP, trace", appSees, "header Traceparent; header Tracestate", "the trace goes on; daprd takes it from grpc-trace-bin only"},
	{"gRPC to gRPC, bare", appSees, "extension", "one without a verb and a query says nothing, and is always there"},
	{"gRPC to gRPC, trace", appSees, "metadata traceparent; metadata tracestate", "the trace goes on; daprd takes it from grpc-trace-bin only"},
	{"gRPC to gRPC", appSees, "metadata grpc-mine; metadata dapr-grpc-mine", "a name that begins as gRPC's own gets dapr- before it, as towards HTTP"},
}
