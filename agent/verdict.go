package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/mirror"
)

// hearsay reads what the synchronizers say of instances that the own registries list no more and
// that are held here: whether the own cluster's list, as they hold it, has them. They read the same
// registries, and it is there that people see what is held and release it. Only the intake's
// goroutine uses it.
type hearsay struct {
	cluster string
	hold    time.Duration // guard.hold
	epoch   uint64        // of the owner whose word it was last; 0 before the first
	since   time.Time     // when another owner took over; zero where none was seen to
}

// verdict is hearsay's word, nil while the feed is down: then the guard here is alone.
func (a *Agent) verdict(now time.Time) func(catalog.ID) guard.Word {
	m := a.mirror.Load()
	if m == nil || !a.uplink.Connected() {
		return nil
	}
	return a.hearsay.word(m, now)
}

// word gives what a feed's mirror says of the cluster's instances, nil where it has nothing fresh.
// An owner that has just taken over, or begun anew, held nothing back of what a registry lost before:
// that it lists an instance counts, that it lists one no more does not before guard.hold has passed.
func (h *hearsay) word(m *mirror.Mirror, now time.Time) func(catalog.ID) guard.Word {
	for _, c := range m.Clusters(now) {
		if c.Name != h.cluster || c.State != catalog.StateSynced && c.State != catalog.StateProtected {
			continue
		}
		if c.Epoch != h.epoch {
			if h.epoch != 0 {
				h.since = now
			}
			h.epoch = c.Epoch
		}
		unlisted := guard.Unlisted
		if !h.since.IsZero() && now.Sub(h.since) < h.hold {
			unlisted = guard.Silent
		}
		return func(id catalog.ID) guard.Word {
			list, _ := m.Instances(id.Cluster, id.Name)
			_, listed := slices.BinarySearchFunc(list, id.Instance, func(in *catalog.Instance, id string) int {
				return cmp.Compare(in.Instance, id)
			})
			if listed {
				return guard.Listed
			}
			return unlisted
		}
	}
	return nil
}
