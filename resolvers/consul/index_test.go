package consul

import (
	"strings"
	"testing"
	"time"
)

func TestAdvance(t *testing.T) {
	for _, c := range []struct {
		name      string
		held, got uint64
		want      string
	}{
		{"the first", 0, 7, ""},
		{"on", 7, 9, ""},
		{"the same", 9, 9, ""},
		{"backwards", 9, 8, "index of checks went backwards from 9 to 8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			held := c.held
			if reason := advance("checks", &held, c.got); reason != c.want {
				t.Errorf("reason %q, want %q", reason, c.want)
			}
			if held != c.got {
				t.Errorf("held %d, want %d, so that a reset is told once", held, c.got)
			}
		})
	}
}

// TestIdentify goes through what a registry may say of its servers, one answer after another.
func TestIdentify(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []string // servers, separated by blanks
		want    []string // a word of the reason, or nothing
	}{
		{"the same", []string{"a b c", "a b c"}, []string{"", ""}},
		{"one replaced at a time", []string{"a b c", "a b d", "a d e", "d e f"}, []string{"", "", "", ""}},
		{"all others", []string{"a b c", "d e f", "d e f"}, []string{"", "identity changed", ""}},
		{"vanished, told once, and back", []string{"a", "", "", "a"}, []string{"", "vanished", "", ""}},
		{"vanished and another came", []string{"a", "", "b"}, []string{"", "vanished", "identity changed"}},
		{"never seen, for a token may not", []string{"", "", ""}, []string{"", "", ""}},
		{"seen late", []string{"", "a"}, []string{"", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s seen
			for i, a := range c.answers {
				got := s.identify(strings.Fields(a))
				if (got == "") != (c.want[i] == "") || !strings.Contains(got, c.want[i]) {
					t.Errorf("after %q: reason %q, want %q", c.answers[:i+1], got, c.want[i])
				}
			}
		})
	}
}

func TestBackoffGrowsToABound(t *testing.T) {
	var b backoff
	most := time.Duration(0)
	for range 20 {
		d := b.next()
		if d < backoffFirst/2 || d > backoffMost {
			t.Fatalf("pause of %v", d)
		}
		most = max(most, d)
	}
	if most < backoffMost/2 {
		t.Errorf("the longest of 20 pauses is %v, want it near %v", most, backoffMost)
	}
}
