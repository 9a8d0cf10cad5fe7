package keys

import (
	"strings"
	"testing"
)

// TestReadsNamesEveryKind: a kind that is added counts in what a version reads, or agents that are upgraded
// would not ask for keys of it.
func TestReadsNamesEveryKind(t *testing.T) {
	if is, after := last.String(), (last + 1).String(); strings.HasPrefix(is, "kind(") || !strings.HasPrefix(after, "kind(") {
		t.Errorf("the last kind is %s, and after it comes %s", is, after)
	}
	if len(Reads()) != 16 {
		t.Errorf("it is %q", Reads())
	}
}
