package invoke

import (
	"encoding/base64"
	"strings"
)

// Header and metadata names. Those on Dapr's wire are lower case and are compared exactly.
const (
	DestinationAppID = "destination-app-id"
	CallerAppID      = "dapr-caller-app-id"
	CallerNamespace  = "dapr-caller-namespace"
	CalleeAppID      = "dapr-callee-app-id"
	DaprAppID        = "dapr-app-id"
	// APIToken is what a caller shows to a sidecar, and a sidecar to its application.
	APIToken = "dapr-api-token"

	// What a caller may say, in a header or in gRPC metadata.
	StrategyKey = "farcall-strategy"
	ClusterKey  = "farcall-cluster"
	TimeoutKey  = "farcall-timeout"

	// What an answer says besides StrategyKey.
	ServedByKey  = "farcall-served-by"
	TierKey      = "farcall-tier"
	AttemptsKey  = "farcall-attempts"
	ReasonKey    = "farcall-reason"
	BroadcastKey = "farcall-broadcast"

	// Between agents only, in the gRPC metadata of the call.
	TargetKey        = "farcall-target"
	HopKey           = "farcall-hop"
	OriginKey        = "farcall-origin"
	NotDispatchedKey = "farcall-not-dispatched"
	// StatusByKey is in the trailer of a proxied call, and says whose word its status is: the
	// agent's or its application's.
	StatusByKey   = "farcall-status-by"
	ByAgent       = "agent"
	ByApplication = "application"
)

const farcallPrefix = "farcall-"

// HopByHop reports whether a header belongs to one connection (RFC 9110 section 7.6.1) and so
// never travels on. Names in the Connection header come on top: see ConnectionNames.
func HopByHop(key string) bool {
	switch len(key) {
	case 2:
		return strings.EqualFold(key, "te")
	case 7:
		return strings.EqualFold(key, "trailer") || strings.EqualFold(key, "upgrade")
	case 10:
		return strings.EqualFold(key, "connection") || strings.EqualFold(key, "keep-alive")
	case 14:
		return strings.EqualFold(key, "http2-settings")
	case 16:
		return strings.EqualFold(key, "proxy-connection")
	case 17:
		return strings.EqualFold(key, "transfer-encoding")
	case 18:
		return strings.EqualFold(key, "proxy-authenticate")
	case 19:
		return strings.EqualFold(key, "proxy-authorization")
	}
	return false
}

// ConnectionNames gives the further hop-by-hop headers that a message names itself, in lower
// case; nil, as is usual, where it names none.
func ConnectionNames(h Header) []string {
	var names []string
	for k, values := range h {
		if len(k) != len("connection") || !strings.EqualFold(k, "connection") {
			continue
		}
		for _, v := range values {
			for name := range strings.SplitSeq(v, ",") {
				if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// ClaimsIdentity reports whether a header, however spelt, says who calls, who is called or how
// Farcall shall treat the call. A face strips those from what a caller sends, and then says the
// truth itself. Underscores count as dashes, since many an application server reads them so.
func ClaimsIdentity(key string) bool {
	// Only names that begin with d or f are of interest; nearly all others end here.
	if key == "" || (key[0]|0x20 != 'd' && key[0]|0x20 != 'f') {
		return false
	}
	k := strings.ReplaceAll(strings.ToLower(key), "_", "-")
	switch k {
	case DestinationAppID, CallerAppID, CallerNamespace, CalleeAppID, DaprAppID, APIToken:
		// The token was for this agent's own API; the callee must not learn it (GO-2024-2879).
		return true
	}
	return strings.HasPrefix(k, "dapr-caller-") || strings.HasPrefix(k, farcallPrefix)
}

// Ours reports whether a response header is one that only the caller's agent may write.
func Ours(key string) bool {
	return len(key) > len(farcallPrefix) && strings.EqualFold(key[:len(farcallPrefix)], farcallPrefix)
}

// PermanentHTTPHeader reports whether a name, in its canonical HTTP spelling, is one that is
// renamed to "dapr-<lower case>" where HTTP headers become gRPC metadata. The list is Dapr's
// (pkg/messaging/v1/util.go), without what never travels; Authorization is not in it.
func PermanentHTTPHeader(k string) bool {
	switch k {
	case "Accept", "Accept-Charset", "Accept-Language", "Accept-Ranges",
		"Cache-Control", "Content-Type", "Cookie", "Date", "Expect", "From", "Host", "If-Match",
		"If-Modified-Since", "If-None-Match", "If-Schedule-Tag-Match", "If-Unmodified-Since",
		"Max-Forwards", "Origin", "Pragma", "Referer", "Via", "Warning":
		return true
	}
	return false
}

// MetadataValue gives a header's value as gRPC metadata holds it under key: binary values, which
// Header has in base64, as they are. It reports false for one that cannot stand there.
func MetadataValue(key, v string) (string, bool) {
	if !strings.HasSuffix(key, "-bin") {
		return v, Printable(v)
	}
	raw, err := base64.StdEncoding.DecodeString(v)
	return string(raw), err == nil
}

// ValidMetadataKey and Printable are gRPC's own rules for the keys and values of metadata
// (PROTOCOL-HTTP2, Custom-Metadata), "-bin" keys apart; a call that breaks them fails as a whole.
func ValidMetadataKey(k string) bool {
	for i := range len(k) {
		c := k[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return k != ""
}

// Printable reports whether v is printable ASCII: see ValidMetadataKey.
func Printable(v string) bool {
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return false
		}
	}
	return true
}

// MaxText is the most, in bytes, that Text gives.
const MaxText = 300

// Text gives words as a header can carry them: printable ASCII, with a blank for each line break
// and "?" for anything else, cut off at MaxText. Words that can stand there are not copied.
func Text(s string) string {
	if len(s) <= MaxText && Printable(s) {
		return s
	}
	const cut = "..."
	out := make([]byte, 0, MaxText)
	for _, r := range s {
		if len(out) == MaxText {
			return string(append(out[:MaxText-len(cut)], cut...))
		}
		switch {
		case r >= 0x20 && r <= 0x7e:
			out = append(out, byte(r))
		case r == '\n' || r == '\r' || r == '\t':
			out = append(out, ' ')
		default:
			out = append(out, '?')
		}
	}
	return string(out)
}
