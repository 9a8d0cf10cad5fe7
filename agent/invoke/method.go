package invoke

import (
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

// VerbToProto gives the wire's word for an HTTP method; what the wire has no word for becomes
// POST, as Dapr does. An empty verb is NONE.
func VerbToProto(verb string) commonv1.HTTPExtension_Verb {
	if verb == "" {
		return commonv1.HTTPExtension_NONE
	}
	if v, ok := commonv1.HTTPExtension_Verb_value[verb]; ok && v != 0 {
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
