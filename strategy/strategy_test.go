package strategy

import (
	"errors"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestParseGivesTheCanonicalWord(t *testing.T) {
	for in, want := range map[string]Kind{
		"local-first": LocalFirst, "external-first": ExternalFirst, "broadcast": Broadcast,
		"local-only": LocalOnly, "external-only": ExternalOnly, "any": Any,
		"active-active": Any, "none": Any, "local": LocalFirst, "remote": ExternalFirst,
	} {
		if got, err := Parse(in); got != want || err != nil {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseRejectsWithTheNearestWord(t *testing.T) {
	for _, c := range []struct{ in, nearest string }{
		{"Local-First", "local-first"},
		{"LOCAL-ONLY", "local-only"},
		{"Any", "any"},
		{"None", "none"},
		{"local_first", "local-first"},
		{"localfirst", "local-first"},
		{"local-fisrt", "local-first"},
		{"external-onyl", "external-only"},
		{" broadcast", "broadcast"},
		{"broadcast ", "broadcast"},
		{"boradcast", "broadcast"},
		{"external", "external-only"},
		{"remot", "remote"},
		{"active_active", "active-active"},
		{"local-first" + strings.Repeat("x", 1<<20), "local-first"},
	} {
		_, err := Parse(c.in)
		var bad *InputError
		if !errors.As(err, &bad) || bad.Reason != BadStrategy {
			t.Errorf("Parse(%.30q): %v, want an InputError %s", c.in, err, BadStrategy)
			continue
		}
		if want := `did you mean "` + c.nearest + `"?`; !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.30q): %q does not say %q", c.in, err, want)
		}
		if !strings.Contains(err.Error(), "local-first, external-first, broadcast, local-only, external-only, any; also active-active (any), none (any), local (local-first), remote (external-first)") {
			t.Errorf("Parse(%.30q): %q does not list what is accepted", c.in, err)
		}
		if len(err.Error()) > 500 {
			t.Errorf("Parse(%.30q): an error of %d bytes", c.in, len(err.Error()))
		}
	}
	if _, err := Parse(""); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("the empty word: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "local-first", "none", "Local-First", "\xff", "local-first\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := Parse(s)
		if (err == nil) != k.valid() {
			t.Fatalf("Parse(%q) = %q, %v", s, k, err)
		}
		if err == nil {
			if again, err := Parse(string(k)); again != k || err != nil {
				t.Fatalf("Parse(%q) = %q is not canonical: %q, %v", s, k, again, err)
			}
		}
	})
}
