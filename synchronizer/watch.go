package synchronizer

import (
	"context"
	"maps"
	"slices"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// stateEvery is how often a watch looks for a cluster that grew stale: no change tells of that.
const stateEvery = time.Second

// instanceWatch is one WatchInstances stream: it compares what the caller was told with what is
// known, whenever that changed. A slow caller therefore gets the latest, and nothing queues up.
type instanceWatch struct {
	admin  *admin
	filter filter
	send   func(*adminv1.WatchInstancesResponse) error
	have   map[catalog.ID]*catalog.Instance
	states map[string]catalog.ClusterState
	synced bool
}

func (w *instanceWatch) run(ctx context.Context) error {
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	for {
		changed := w.admin.s.hub.wait()
		if err := w.step(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

// step tells the caller all that it was not told yet.
func (w *instanceWatch) step() error {
	clusters, err := w.admin.only(w.filter.cluster)
	if err != nil {
		return err
	}
	upsert := adminv1.WatchInstancesResponse_UPSERT
	if !w.synced {
		upsert = adminv1.WatchInstancesResponse_SNAPSHOT
	}
	seen := make(map[catalog.ID]struct{}, len(w.have))
	var changes []*adminv1.WatchInstancesResponse
	w.admin.each(w.filter, clusters, "", func(i *catalog.Instance) bool {
		seen[i.ID] = struct{}{}
		if old := w.have[i.ID]; old != i && (old == nil || !old.Equal(i)) {
			changes = append(changes, &adminv1.WatchInstancesResponse{Type: upsert, Instance: i.Proto()})
		}
		w.have[i.ID] = i
		return true
	})
	for _, id := range slices.SortedFunc(maps.Keys(w.have), catalog.ID.Compare) {
		if _, ok := seen[id]; !ok {
			changes = append(changes, &adminv1.WatchInstancesResponse{Type: adminv1.WatchInstancesResponse_DELETE, Instance: w.have[id].Proto()})
			delete(w.have, id)
		}
	}
	for _, c := range clusters {
		if old, ok := w.states[c.Name]; !ok || old != c.State {
			w.states[c.Name] = c.State
			changes = append(changes, &adminv1.WatchInstancesResponse{Type: adminv1.WatchInstancesResponse_CLUSTER, Cluster: clusterStatus(c)})
		}
	}
	if !w.synced {
		w.synced = true
		changes = append(changes, &adminv1.WatchInstancesResponse{Type: adminv1.WatchInstancesResponse_SYNCED})
	}
	for _, c := range changes {
		if err := w.send(c); err != nil {
			return err
		}
	}
	return nil
}
