package invoke

import (
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// byDapr is Dapr's normalisation of a method (pkg/messaging/method, since 1.18), told step by step;
// false where it refuses one. It does not look at the encoding.
func byDapr(m string) (string, bool) {
	for _, r := range m {
		if r == '#' || r == '?' || unicode.IsControl(r) {
			return "", false
		}
	}
	m = strings.TrimPrefix(path.Clean(m), "/")
	for m == ".." || strings.HasPrefix(m, "../") {
		m = strings.TrimPrefix(m[2:], "/")
	}
	if m == "." {
		m = ""
	}
	return m, true
}

// bySegments resolves a path as a walk through it does.
func bySegments(m string) string {
	var at []string
	for _, s := range strings.Split(m, "/") {
		switch s {
		case "", ".":
		case "..":
			at = at[:max(0, len(at)-1)]
		default:
			at = append(at, s)
		}
	}
	return strings.Join(at, "/")
}

// FuzzMethod holds the normaliser to Dapr's, and the wire's spelling to the method that it spells.
func FuzzMethod(f *testing.F) {
	for _, s := range []string{
		"", "/", ".", "..", "a", "/a/", "a//b", "a/./b", "a/../b", "../a", "/../a", "a/../../b", "..a", "a..", "...", "../../..",
		"a%2Fb", "a%2f..%2fb", "%2e%2e/b", "%2E%2E%2Fb", "100%", "%", "%zz", "%25", "%252F", "%2525", "a%00b", "a%23b", "a%3Fb", "%ff", "%C3%BC",
		"a?b", "a#b", "a\x00b", "a\nb", "a\u0085b", "a\xffb", "a b", "\u00fc", "a\\..\\b", ";/..;/b", "http://h/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := NormalizeMethod(s)
		if _, ok := byDapr(s); (err == nil) != (ok && utf8.ValidString(s)) {
			t.Fatalf("%q: %v, and Dapr takes it: %v", s, err, ok)
		}
		if err == nil {
			if want, _ := byDapr(s); m != want || m != bySegments(s) {
				t.Fatalf("%q: got %q, Dapr's %q, by segments %q", s, m, want, bySegments(s))
			}
			if again, err := MethodFromWire(MethodOnWire(m)); err != nil || again != m {
				t.Fatalf("%q stands on the wire as %q and comes back as %q, %v", m, MethodOnWire(m), again, err)
			}
		}
		w, err := MethodFromWire(s)
		if err != nil {
			return
		}
		if again, err := NormalizeMethod(w); err != nil || again != w || w != bySegments(w) {
			t.Fatalf("%q on the wire became %q, and that %q, %v", s, w, again, err)
		}
		if !strings.Contains(s, "%") && w != m {
			t.Fatalf("%q has no escapes and became %q instead of %q", s, w, m)
		}
	})
}

// TestMethodOnWire says what becomes of a "%", which a daprd puts into a URL as it is.
func TestMethodOnWire(t *testing.T) {
	for in, want := range map[string]string{"a b/\u00fc": "a b/\u00fc", "100%": "100%25", "a%20b": "a%2520b"} {
		if got := MethodOnWire(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"a%20b": "a b", "a%2520b": "a%20b", "100%25": "100%", "100%": "100%", "50%/a%20b": "50%/a%20b", "a+b": "a+b",
		"admin%2F..%2Fpublic": "public", "a%2Fb": "a/b", "%2e%2e/b": "b", "": "",
	} {
		if got, err := MethodFromWire(in); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"a%3Fb", "a%23b", "a%00b", "a%0Ab", "a%ffb", "a?b"} {
		if got, err := MethodFromWire(in); err == nil {
			t.Errorf("%q was taken, as %q", in, got)
		}
	}
}

func TestCheckQuery(t *testing.T) {
	for _, q := range []string{"", "a=1&b=%20+", "a=\u00fc", "a=%zz&&=;?", "a=/../b", "a=[1]{2}|\"<>\\^`"} {
		if err := CheckQuery(q); err != nil {
			t.Errorf("%q: %v", q, err)
		}
	}
	for _, q := range []string{"a b", "a\r\nX: y", "a#b", "a\x00", "a\x7f", "\xff", "a=1 HTTP/1.1"} {
		if err := CheckQuery(q); err == nil {
			t.Errorf("%q was taken", q)
		}
	}
}
