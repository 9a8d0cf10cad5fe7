package app

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
)

// httpHeader turns a call's metadata into the headers an HTTP application gets, as a daprd does
// (pkg/channel/http, pkg/messaging/v1/util.go). What cannot stand in an HTTP header is left out.
func httpHeader(e Endpoint, r *invoke.Request) http.Header {
	named := invoke.ConnectionNames(r.Header)
	h := make(http.Header, len(r.Header)+3)
	for k, values := range r.Header {
		key, ok := headerName(k, named)
		if !ok || binary(key) || len(values) == 0 || !httpguts.ValidHeaderFieldName(key) {
			continue
		}
		key = http.CanonicalHeaderKey(key)
		if key == "Baggage" {
			values = values[:1]
		}
		if slices.ContainsFunc(values, invalidValue) {
			values = slices.DeleteFunc(slices.Clone(values), invalidValue)
		}
		if old := h[key]; old != nil {
			values = slices.Concat(old, values)
		}
		h[key] = values
	}
	switch {
	case r.TypeURL != "":
		h["Content-Type"] = []string{"application/x-protobuf"}
	case r.ContentType != "" && !invalidValue(r.ContentType):
		h["Content-Type"] = []string{r.ContentType}
	}
	if t := e.token(); t != "" {
		h["Dapr-Api-Token"] = []string{t}
	}
	if _, ok := h["User-Agent"]; !ok {
		// Says to the transport: none, rather than its own.
		h["User-Agent"] = []string{""}
	}
	return h
}

// binary reports whether a name is that of gRPC's binary metadata, which HTTP does not get.
func binary(k string) bool {
	const suffix = "-bin"
	return len(k) >= len(suffix) && strings.EqualFold(k[len(k)-len(suffix):], suffix)
}

func invalidValue(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }

// headerName gives the name, in whatever case it has, under which a metadata key reaches an
// application; false where it does not.
func headerName(k string, named []string) (string, bool) {
	switch {
	case k == "" || invoke.HopByHop(k) || containsFold(named, k):
		return "", false
	case len(k) == len(invoke.APIToken) && strings.EqualFold(strings.ReplaceAll(k, "_", "-"), invoke.APIToken):
		// That of the agent's own is added; a caller's word for it would pass for the agent's.
		return "", false
	case strings.EqualFold(k, "content-type"), strings.EqualFold(k, "content-length"),
		strings.EqualFold(k, invoke.DestinationAppID), strings.EqualFold(k, "expect"):
		return "", false
	case invoke.ClaimsIdentity(k):
		// Agents and sidecars stamp it spelt so. Any other spelling is what somebody says of himself,
		// which sidecars hand on.
		return k, k == invoke.CallerAppID || k == invoke.CallerNamespace || k == invoke.CalleeAppID
	case k[0] == ':':
		return "dapr-" + k[1:], true
	case len(k) > 5 && strings.EqualFold(k[:5], "grpc-"):
		return "dapr-" + k, true
	}
	return k, true
}

func containsFold(names []string, k string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, k) })
}

// grpcMetadata turns a call's metadata into what a gRPC application gets.
func grpcMetadata(e Endpoint, r *invoke.Request) metadata.MD {
	named := invoke.ConnectionNames(r.Header)
	md := make(metadata.MD, len(r.Header)+2)
	for k, values := range r.Header {
		key, ok := headerName(k, named)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if invoke.PermanentHTTPHeader(k) {
			key = "dapr-" + key
		}
		if !invoke.ValidMetadataKey(key) {
			continue
		}
		for _, v := range values {
			if v, ok := invoke.MetadataValue(key, v); ok {
				md[key] = append(md[key], v)
			}
		}
	}
	// From gRPC it is in the message alone.
	if len(r.Header["Content-Type"]) > 0 && r.ContentType != "" && invoke.Printable(r.ContentType) {
		md["dapr-content-type"] = []string{r.ContentType}
	}
	if t := e.token(); t != "" {
		md[invoke.APIToken] = []string{t}
	}
	return md
}

// headerFromMetadata is how an application's gRPC metadata stands in an answer.
func headerFromMetadata(md metadata.MD) invoke.Header {
	h := make(invoke.Header, len(md))
	for k, values := range md {
		if k == "content-type" || invoke.Ours(k) {
			continue
		}
		if strings.HasSuffix(k, "-bin") {
			encoded := make([]string, len(values))
			for i, v := range values {
				encoded[i] = base64.StdEncoding.EncodeToString([]byte(v))
			}
			values = encoded
		}
		h[k] = values
	}
	return h
}
