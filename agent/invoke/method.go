package invoke

import (
	"net/url"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
)

// NormalizeMethod gives the one spelling of a method that is both judged and dispatched: a clean
// path without a leading slash and without a way up. The rules are Dapr's (pkg/messaging/method,
// since 1.18, after GO-2026-5242): "#", "?" and control characters are refused, not cut off.
// It is idempotent. The error is an *Error with code InvalidArgument.
func NormalizeMethod(m string) (string, error) {
	if !utf8.ValidString(m) {
		return "", Invalid("invalid method: not UTF-8")
	}
	if i := strings.IndexFunc(m, forbiddenInMethod); i >= 0 {
		return "", Invalid("invalid method: %q at byte %d is not allowed", m[i:i+1], i)
	}
	m = path.Clean(m)
	for {
		switch {
		case m == "." || m == "..":
			return "", nil
		case strings.HasPrefix(m, "/"):
			// path.Clean has already resolved every ".." below a leading slash.
			m = m[1:]
			if m == "" {
				return "", nil
			}
		case strings.HasPrefix(m, "../"):
			m = m[3:]
		default:
			return m, nil
		}
	}
}

func forbiddenInMethod(r rune) bool { return r == '#' || r == '?' || unicode.IsControl(r) }

// MethodOnWire spells a method as it stands on Dapr's wire. A daprd puts what stands there into a
// URL as it is, so that a "%" which is one must be written "%25"; all else may stay.
func MethodOnWire(m string) string { return strings.ReplaceAll(m, "%", "%25") }

// MethodFromWire is NormalizeMethod for a method that stands on Dapr's wire, or in InvokeService:
// its escapes are resolved first, once. What has "%" in it and is not escaped stands for itself.
func MethodFromWire(m string) (string, error) {
	if u, err := url.PathUnescape(m); err == nil {
		m = u
	}
	return NormalizeMethod(m)
}

// CheckQuery refuses a query string that could not stand in a request's target, where a blank ends
// it, or would have a part cut off. The error is an *Error with code InvalidArgument.
func CheckQuery(q string) error {
	if !utf8.ValidString(q) {
		return Invalid("invalid query: not UTF-8")
	}
	if i := strings.IndexFunc(q, forbiddenInQuery); i >= 0 {
		return Invalid("invalid query: %q at byte %d is not allowed", q[i:i+1], i)
	}
	return nil
}

func forbiddenInQuery(r rune) bool { return r == '#' || r == ' ' || unicode.IsControl(r) }

// VerbToProto gives the wire's word for an HTTP method, in whatever case that is; what the wire has
// no word for becomes POST, as Dapr does. An empty verb is NONE.
func VerbToProto(verb string) commonv1.HTTPExtension_Verb {
	if verb == "" {
		return commonv1.HTTPExtension_NONE
	}
	if v, ok := commonv1.HTTPExtension_Verb_value[strings.ToUpper(verb)]; ok && v != 0 {
		return commonv1.HTTPExtension_Verb(v)
	}
	return commonv1.HTTPExtension_POST
}

// VerbFromProto is the inverse of VerbToProto. NONE, and what nobody knows, give "".
func VerbFromProto(v commonv1.HTTPExtension_Verb) string {
	if v == commonv1.HTTPExtension_NONE {
		return ""
	}
	return commonv1.HTTPExtension_Verb_name[int32(v)]
}
