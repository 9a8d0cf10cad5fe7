package nearest

import (
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestWord(t *testing.T) {
	words := []string{"clusters", "listen", "http", "local-first", "local-only", "dataDir"}
	for _, c := range []struct {
		s, want string
		near    bool
	}{
		{"clusers", "clusters", true},
		{"lsiten", "listen", true},
		{"Local_First", "local-first", true},
		{"datadir", "dataDir", true},
		{"htpp", "http", true},
		{"zzzzzzzz", "clusters", false},
		{"", "http", false},
		{strings.Repeat("x", 10_000), "local-first", false},
	} {
		got, near := Word(c.s, words)
		if near != c.near || near && got != c.want {
			t.Errorf("%.20q: got %q, %v; want %q, %v", c.s, got, near, c.want, c.near)
		}
	}
	if w, near := Word("x", nil); w != "" || near {
		t.Errorf("no words: %q, %v", w, near)
	}
}

func FuzzWord(f *testing.F) {
	f.Add("clusers", "clusters")
	f.Fuzz(func(t *testing.T, s, w string) {
		if got, _ := Word(s, []string{w}); got != w {
			t.Errorf("the only word is %q, got %q", w, got)
		}
		if len(w) <= maxLength && distance(s, s) != 0 {
			t.Error("a word is some way from itself")
		}
	})
}

func TestEither(t *testing.T) {
	for want, words := range map[string][]string{
		"": nil, `"a"`: {"a"}, `"a" or "b"`: {"a", "b"}, `"a", "b" or "c d"`: {"a", "b", "c d"},
	} {
		if got := Either(words); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
