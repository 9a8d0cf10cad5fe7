package store

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

var (
	// ErrConfigured is the error of deleting a cluster that some living replica is configured for.
	ErrConfigured = errors.New("a synchronizer is configured for the cluster")
	// errMeanwhile is the error of a deletion that something came before; it is tried again.
	errMeanwhile = errors.New("a replica came meanwhile")
)

// DeleteCluster removes all keys of a cluster that no living replica is configured for, and its
// agents' records, in one transaction, and gives how many keys those were; agents that live report
// again. Its cordons stay: they are what people said, and hold again should it come back.
//
// It fails with ErrConfigured where a replica is configured for it. A replica that comes while it is
// deleted either keeps it from being so, or finds it deleted and fills it from its registries.
func (s *Store) DeleteCluster(ctx context.Context, cluster string) (gone int64, err error) {
	if err := catalog.CheckClusterName(cluster); err != nil {
		return 0, fmt.Errorf("store: delete cluster: %w", err)
	}
	var refusal error
	err = s.request(ctx, "delete cluster", func(ctx context.Context) error {
		n, err := s.deleteCluster(ctx, cluster)
		gone += n
		if errors.Is(err, ErrConfigured) {
			refusal = err
			return nil
		}
		return err
	})
	if err == nil && refusal != nil {
		err = fmt.Errorf("store: delete cluster: %w", refusal)
	}
	return gone, err
}

func (s *Store) deleteCluster(ctx context.Context, cluster string) (gone int64, err error) {
	replicas, err := s.client.Get(ctx, s.schema.Replicas(), clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	for _, kv := range replicas.Kvs {
		var r storev1.Replica
		if err := keys.Decode(kv.Value, &r); err != nil {
			return 0, fmt.Errorf("%w: that may be so of %s, whose heartbeat cannot be read: %w", ErrConfigured, kv.Key, err)
		}
		for _, c := range r.GetClusters() {
			if c == cluster {
				return 0, fmt.Errorf("%w: %s", ErrConfigured, r.GetId())
			}
		}
	}
	owner := s.schema.Format(keys.Key{Kind: keys.Owner, Cluster: cluster})
	all, cordons := s.schema.Cluster(cluster), s.schema.Cordons(cluster)
	agents := s.schema.Agents() + cluster + "/"
	txn, err := s.client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(owner), "=", 0),
		// What a living replica is configured for does not change: only one that came since counts.
		clientv3.Compare(clientv3.CreateRevision(s.schema.Replicas()), "<", replicas.Header.GetRevision()+1).WithPrefix(),
	).Then(
		// The list first, and what says that there is a list after it.
		clientv3.OpDelete(s.schema.Services(cluster), clientv3.WithPrefix()),
		clientv3.OpDelete(all, clientv3.WithRange(cordons)),
		clientv3.OpDelete(clientv3.GetPrefixRangeEnd(cordons), clientv3.WithRange(clientv3.GetPrefixRangeEnd(all))),
		clientv3.OpDelete(agents, clientv3.WithPrefix()),
	).Else(clientv3.OpGet(owner)).Commit()
	if err != nil {
		return 0, err
	}
	if !txn.Succeeded {
		return 0, errMeanwhile
	}
	for _, r := range txn.Responses {
		gone += r.GetResponseDeleteRange().GetDeleted()
	}
	s.log.Warn("cluster is deleted: no synchronizer is configured for it", "cluster", cluster, "keys", gone)
	return gone, nil
}
