package keys

import storev1 "github.com/farcall/farcall/api/farcall/store/v1"

// Covers reports whether a store has all the policies and cordons that somebody holds. id is the
// store's, marker its policies-synced (nil where it has none), and held says which revision
// somebody holds, and of which store.
//
// Revisions of one store can be compared. Another store counts on its own, and may be past a
// revision without having had what it stood for; it has what it was told of the time before.
func Covers(id string, marker, held *storev1.PoliciesSynced) bool {
	switch {
	case marker == nil:
		return false
	case held.GetStore() == id:
		return marker.GetRevision() >= held.GetRevision()
	}
	return marker.GetRestored() >= held.GetRevision()
}
