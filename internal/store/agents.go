package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// PutAgent stores what an agent says of itself, under its cluster and node. A record that is
// the same already is not written again. After an error it may be stored or not.
func (s *Store) PutAgent(ctx context.Context, agent *catalogv1.Agent) error {
	key, err := s.agentKey(agent.GetCluster(), agent.GetNode())
	if err != nil {
		return fmt.Errorf("store: put agent: %w", err)
	}
	value, err := keys.Encode(agent)
	if err != nil {
		return fmt.Errorf("store: put agent: %w", err)
	}
	return s.request(ctx, "put agent", func(ctx context.Context) error {
		// A comparison of a value that is not there fails, and then it is put as well.
		_, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", string(value))).
			Else(clientv3.OpPut(key, string(value))).Commit()
		return err
	})
}

// DeleteAgent removes an agent's record if it is still that incarnation's: a younger one that
// took over the node keeps its own. A record that is not there is no error.
func (s *Store) DeleteAgent(ctx context.Context, cluster, node, incarnation string) error {
	key, err := s.agentKey(cluster, node)
	if err != nil {
		return fmt.Errorf("store: delete agent: %w", err)
	}
	return s.request(ctx, "delete agent", func(ctx context.Context) error {
		for {
			resp, err := s.client.Get(ctx, key)
			if err != nil || len(resp.Kvs) == 0 {
				return err
			}
			kv := resp.Kvs[0]
			var was catalogv1.Agent
			// One that cannot be read is nobody's.
			if keys.Decode(kv.Value, &was) != nil || was.GetIncarnation() != incarnation {
				return nil
			}
			txn, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
				Then(clientv3.OpDelete(key)).Commit()
			if err != nil || txn.Succeeded {
				return err
			}
		}
	})
}

func (s *Store) agentKey(cluster, node string) (string, error) {
	if err := catalog.CheckClusterName(cluster); err != nil {
		return "", err
	}
	if node == "" {
		return "", errors.New("node is empty")
	}
	return s.schema.Format(keys.Key{Kind: keys.Agent, Cluster: cluster, Node: node}), nil
}

// request runs a request of a caller outside this package. It may be repeated without harm, and
// is, for three seconds.
func (s *Store) request(ctx context.Context, what string, do func(context.Context) error) error {
	return s.requestFor(ctx, what, askTimeout, do)
}

// requestFor is request with the time that one attempt may take; three times that are all of them
// given.
func (s *Store) requestFor(ctx context.Context, what string, attempt time.Duration, do func(context.Context) error) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("store: %s: %w", what, err)
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, 3*attempt)
	defer cancel()
	pauses := s.backoff()
	for {
		actx, cancel := context.WithTimeout(ctx, attempt)
		err := do(actx)
		cancel()
		if err == nil {
			return nil
		}
		if !pauses.after(ctx, err) {
			return fmt.Errorf("store: %s: %w", what, err)
		}
	}
}
