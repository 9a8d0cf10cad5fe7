package proxy

import (
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
)

// traceBinKey is OpenCensus' trace context, which daprd writes and believes before traceparent.
const traceBinKey = "grpc-trace-bin"

// Header gives what travels on of the metadata of a call that came in; md becomes it. What is said
// of who calls and how the call is to be treated stays behind, but for the caller's name where that
// is believed, of which the last word is a sidecar's own; so do headers that belong to one connection.
// Binary values are as they were.
func Header(md metadata.MD, believed bool) metadata.MD {
	for k, v := range md {
		switch {
		case !travels(k):
			delete(md, k)
		case !invoke.ClaimsIdentity(k):
		case believed && len(v) > 0 && (k == invoke.CallerAppID || k == invoke.CallerNamespace):
			md[k] = v[len(v)-1:]
		default:
			delete(md, k)
		}
	}
	return md
}

// travels reports whether a key is for the callee. What is not was for the server that read it, and
// gRPC says it anew on every connection.
func travels(k string) bool {
	switch k {
	case "", "content-type", "user-agent", "host", "te", "grpc-accept-encoding":
		return false
	}
	return k[0] != ':'
}

// Answer gives what travels back of the metadata of an answer; md becomes it. Only agents say
// anything of a call, and what gRPC does not let a server say is left out.
func Answer(md metadata.MD) metadata.MD {
	for k, values := range md {
		if k == "content-type" || k == "grpc-accept-encoding" || invoke.Ours(k) || !invoke.ValidMetadataKey(k) {
			delete(md, k)
			continue
		}
		if !strings.HasSuffix(k, "-bin") && slices.ContainsFunc(values, unprintable) {
			md[k] = slices.DeleteFunc(values, unprintable)
		}
	}
	return md
}

func unprintable(v string) bool { return !invoke.Printable(v) }

// AppID gives the application that a call is for: dapr-app-id, else the last dapr-callee-app-id,
// which is what a sidecar appends to what its application said. Empty: none is named.
func AppID(md metadata.MD) string {
	if v := md[invoke.DaprAppID]; len(v) > 0 {
		return v[0]
	}
	return last(md[invoke.CalleeAppID])
}

func last(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

// TraceParent gives the W3C traceparent of a call, or "". That of a sidecar, which appends its own
// span to what its application said, is in grpc-trace-bin alone.
func TraceParent(md metadata.MD) string {
	// Version 0, then fields: 0 is the trace's id, 1 the span's, 2 the flags.
	const id, span, flags, length = 2, 19, 28, 29
	if b := last(md[traceBinKey]); len(b) == length && b[0] == 0 && b[id-1] == 0 && b[span-1] == 1 && b[flags-1] == 2 {
		hexed := func(s string) string { return hex.EncodeToString([]byte(s)) }
		if t := hexed(b[id : span-1]); strings.Trim(t, "0") != "" {
			return "00-" + t + "-" + hexed(b[span:flags-1]) + "-" + hexed(b[flags:])
		}
	}
	if v := md["traceparent"]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// SetTrace gives the callee another traceparent than the caller's.
func (c *Call) SetTrace(parent string) {
	c.Header = maps.Clone(c.Header)
	c.Header["traceparent"] = []string{parent}
	delete(c.Header, traceBinKey)
}
