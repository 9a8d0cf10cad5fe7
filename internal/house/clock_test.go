package house

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
)

// timesOfDay are the only fields by which what one host's clock said comes to another, and what becomes
// of them there. Ages, leases, holds and orders are counted otherwise: in ticks, in time that is left, in
// epochs.
var timesOfDay = map[string]string{
	"farcall.policy.v1.Policy.since":               "for people",
	"farcall.policy.v1.Cordon.since":               "for people",
	"farcall.policy.v1.Cordon.expires":             "obeyed by each agent's own clock, as a person stated it",
	"farcall.store.v1.RegistryStatus.since":        "for people",
	"farcall.store.v1.RegistryStatus.last_success": "for people",
	"farcall.feed.v1.SavedView.saved":              "read by the host that wrote it",
}

// A clock that is wrong on one host must not decide anything on another. No message that hosts exchange
// or store tells a time of day, but those named above.
func TestNoClockCrossesHosts(t *testing.T) {
	found := map[string]bool{}
	seen := map[protoreflect.FullName]bool{}
	var look func(m protoreflect.MessageDescriptor)
	look = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			switch {
			case f.Message() == nil:
			case f.Message().FullName() == "google.protobuf.Timestamp":
				found[string(f.FullName())] = true
			default:
				look(f.Message())
			}
		}
		for i := range m.Messages().Len() {
			look(m.Messages().Get(i))
		}
	}
	for _, file := range []protoreflect.FileDescriptor{
		feedv1.File_farcall_feed_v1_feed_proto, policyv1.File_farcall_policy_v1_policy_proto, storev1.File_farcall_store_v1_store_proto,
	} {
		for i := range file.Messages().Len() {
			look(file.Messages().Get(i))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if timesOfDay[name] == "" {
			t.Errorf("%s carries a time of day from one host to another: count otherwise, or say here what becomes of it", name)
		}
	}
	for name := range timesOfDay {
		if !found[name] {
			t.Errorf("%s is not there any more", name)
		}
	}
}
