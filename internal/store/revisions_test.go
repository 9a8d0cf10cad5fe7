package store

import "testing"

func TestRevisionsKeepTheLatest(t *testing.T) {
	var r revisions
	for n := range int64(3 * latestRevisions) {
		r.add(n)
	}
	for revision, want := range map[int64]bool{0: false, 2*latestRevisions - 1: false, 2 * latestRevisions: true, 3*latestRevisions - 1: true} {
		if r.has(revision) != want {
			t.Errorf("has %d: %v, want %v", revision, !want, want)
		}
	}
	if len(r.set) != latestRevisions {
		t.Errorf("remembers %d", len(r.set))
	}
}
