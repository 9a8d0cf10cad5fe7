package uplink

import (
	"errors"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/mirror"
)

// digestOf gives what stands for all that a mirror holds; nil where it cannot say.
func digestOf(m *mirror.Mirror) *feedv1.Digest {
	d, ok := m.Digest()
	if !ok {
		return nil
	}
	return &feedv1.Digest{Parts: d.Parts}
}

// errLacks says that the agent lacks changes that were made while it had no feed.
var errLacks = errors.New("changes from before the feed are missing here: everything is asked for again")

// whole checks that what is held after a message is what it should be, where the message says that.
func (u *Uplink) whole(m *feedv1.WatchResponse) error {
	if m.GetDigest() == nil {
		return nil
	}
	d, ok := u.mirror.Load().Digest()
	if ok && len(mirror.Differ(d.Parts, m.GetDigest().GetParts())) == 0 {
		return nil
	}
	u.anew = true
	u.metrics.lacks.Inc()
	return errLacks
}

// noteDrift takes a synchronizer's word that what is held here is not what was sent. A snapshot
// follows, which repairs it.
func (u *Uplink) noteDrift(parts []string) {
	u.drifts.Add(1)
	for _, p := range parts {
		u.metrics.drift.WithLabelValues(p).Inc()
	}
	_, revision := u.mirror.Load().Position()
	u.log.Warn("this agent held something else than it was sent: it is sent everything again", "differed", parts, "rev", revision, "times", u.drifts.Load())
}
