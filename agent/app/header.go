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
func httpHeader(r *invoke.Request) http.Header {
	named := invoke.ConnectionNames(r.Header)
	h := make(http.Header, len(r.Header)+2)
	for k, values := range r.Header {
		key, ok := headerName(k, named)
		if !ok || strings.HasSuffix(key, "-bin") || len(values) == 0 || !httpguts.ValidHeaderFieldName(key) {
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
	if r.ContentType != "" && !invalidValue(r.ContentType) {
		h["Content-Type"] = []string{r.ContentType}
	}
	if _, ok := h["User-Agent"]; !ok {
		// Says to the transport: none, rather than its own.
		h["User-Agent"] = []string{""}
	}
	return h
}

func invalidValue(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }

// headerName gives the name, in whatever case it has, under which a metadata key reaches an
// application; false where it does not.
func headerName(k string, named []string) (string, bool) {
	switch {
	case k == "" || invoke.HopByHop(k) || containsFold(named, k):
		return "", false
	case strings.EqualFold(k, "content-type"), strings.EqualFold(k, "content-length"),
		strings.EqualFold(k, invoke.DestinationAppID), strings.EqualFold(k, "expect"):
		return "", false
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
func grpcMetadata(r *invoke.Request) metadata.MD {
	named := invoke.ConnectionNames(r.Header)
	md := make(metadata.MD, len(r.Header)+1)
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
	if r.ContentType != "" && r.Verb != "" && invoke.Printable(r.ContentType) {
		md["dapr-content-type"] = []string{r.ContentType}
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
