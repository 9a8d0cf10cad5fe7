package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/mirror"
)

// verdict gives what the synchronizers say of instances that the own registries list no more and
// that are held here: whether the own cluster's list, as they hold it, has them. They read the same
// registries, and it is there that people see what is held and release it. It is nil while the feed
// is down or brings nothing fresh of the own cluster: then the guard here is alone.
func (a *Agent) verdict(now time.Time) func(catalog.ID) guard.Word {
	m := a.mirror.Load()
	if m == nil || !a.uplink.Connected() {
		return nil
	}
	return wordOf(m, a.cfg.Cluster, now)
}

// wordOf gives what a feed's mirror says of a cluster's instances, nil where it has nothing fresh.
func wordOf(m *mirror.Mirror, cluster string, now time.Time) func(catalog.ID) guard.Word {
	for _, c := range m.Clusters(now) {
		if c.Name != cluster || c.State != catalog.StateSynced && c.State != catalog.StateProtected {
			continue
		}
		return func(id catalog.ID) guard.Word {
			list, _ := m.Instances(id.Cluster, id.Name)
			_, listed := slices.BinarySearchFunc(list, id.Instance, func(in *catalog.Instance, id string) int {
				return cmp.Compare(in.Instance, id)
			})
			if listed {
				return guard.Listed
			}
			return guard.Unlisted
		}
	}
	return nil
}
