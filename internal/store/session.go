package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// errReplicaTaken is the error while the replica key is somebody else's, or still our own of
// an earlier life.
var errReplicaTaken = errors.New("another live replica has this id")

// session is one lease of a member and what hangs on it. Its run goroutine owns it.
type session struct {
	m     *Member
	store *Store
	hold  func(context.Context, *Term) error

	lease   clientv3.LeaseID
	key     string // the replica key
	created int64  // its creation, which tells this session from every other
	expires time.Time

	terms     map[string]*Term     // those whose goroutine has not ended
	notBefore map[string]time.Time // pause after a hold that ended by itself
	ended     chan *Term
	kick      chan struct{} // an owner key went
	silent    bool          // the last beat failed
}

func newSession(m *Member, hold func(context.Context, *Term) error) *session {
	return &session{
		m:         m,
		store:     m.store,
		hold:      hold,
		key:       m.store.schema.Format(keys.Key{Kind: keys.Replica, Replica: m.cfg.ID}),
		terms:     map[string]*Term{},
		notBefore: map[string]time.Time{},
		ended:     make(chan *Term, len(m.cfg.Clusters)),
		kick:      make(chan struct{}, 1),
	}
}

// open takes a lease and the replica key.
func (s *session) open(ctx context.Context) error {
	if err := s.clear(ctx); err != nil {
		return err
	}
	rctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	sent := time.Now()
	grant, err := s.store.client.Grant(rctx, int64((s.m.ttl+time.Second-1)/time.Second))
	if err != nil {
		return fmt.Errorf("store: take a lease: %w", err)
	}
	s.lease, s.expires = grant.ID, sent.Add(time.Duration(grant.TTL)*time.Second)
	value, err := s.heartbeat(s.m.nextTick())
	if err == nil {
		var txn *clientv3.TxnResponse
		txn, err = s.store.client.Txn(rctx).
			If(clientv3.Compare(clientv3.CreateRevision(s.key), "=", 0)).
			Then(clientv3.OpPut(s.key, value, clientv3.WithLease(s.lease))).Commit()
		switch {
		case err == nil && txn.Succeeded:
			s.created = txn.Header.GetRevision()
			return nil
		case err == nil:
			err = fmt.Errorf("%w: %s", errReplicaTaken, s.m.cfg.ID)
		}
	}
	s.revoke(ctx)
	return fmt.Errorf("store: register replica: %w", err)
}

// run beats until ctx is done or the lease is lost, and leaves nothing behind that it could
// take back.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watchOwners(ctx)
	}()
	err := s.loop(ctx)
	cancel(err)
	for len(s.terms) > 0 {
		s.bury(<-s.ended)
	}
	<-watched
	s.revoke(ctx)
	return err
}

// loop is the life of the session. It returns errLeaseLost, or nil when ctx is done.
func (s *session) loop(ctx context.Context) error {
	beat := time.NewTicker(s.m.beat)
	defer beat.Stop()
	for due := true; ; {
		if err := s.look(ctx, due); err != nil {
			return err
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case t := <-s.ended:
			s.bury(t)
		case <-s.kick:
		case <-beat.C:
			due = true
		}
	}
}

// renew keeps the lease. It is called only when the store has just answered: etcd's client
// tries without a pause for as long as it may. Each call may go to another server, so that a
// silent one does not cost the lease, as it would the client's own keep-alive stream.
func (s *session) renew(ctx context.Context) error {
	for range 2 {
		rctx, cancel := context.WithTimeout(ctx, askTimeout/2)
		sent := time.Now()
		resp, err := s.store.client.KeepAliveOnce(rctx, s.lease)
		cancel()
		switch {
		case err == nil:
			s.expires = sent.Add(time.Duration(resp.TTL) * time.Second)
			return nil
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return fmt.Errorf("%w: it is not there", errLeaseLost)
		}
	}
	return nil
}

// look reads who lives and who owns what, writes the heartbeat in the same transaction where
// it is due, acts on what it sees, and renews the lease then. A store that does not answer is
// no error as long as the lease must still stand.
func (s *session) look(ctx context.Context, beat bool) error {
	ops := []clientv3.Op{
		clientv3.OpGet(s.store.schema.Replicas(), clientv3.WithPrefix()),
		clientv3.OpGet(s.store.schema.Owners(), clientv3.WithPrefix()),
	}
	if beat {
		s.m.learn()
		tick := s.m.nextTick()
		value, err := s.heartbeat(tick)
		if err != nil {
			return err
		}
		s.m.tick.Store(tick)
		// The put comes first: the reads then show it.
		ops = append([]clientv3.Op{clientv3.OpPut(s.key, value, clientv3.WithLease(s.lease))}, ops...)
	}
	rctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	txn, err := s.store.client.Txn(rctx).If(s.mine()).Then(ops...).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound), err == nil && !txn.Succeeded:
		s.count(beat, "lost")
		return fmt.Errorf("%w: the replica key is gone", errLeaseLost)
	case err != nil && time.Now().After(s.expires):
		s.count(beat, "lost")
		return fmt.Errorf("%w: it could not be renewed in time: %w", errLeaseLost, err)
	case err != nil:
		s.failed(ctx, beat, err)
		return nil
	}
	s.count(beat, "ok")
	if beat {
		s.store.wrote(nil)
	}
	if s.silent {
		s.store.log.Info("heartbeat is written again", "replica", s.m.cfg.ID)
	}
	s.silent = false
	got := txn.Responses[len(txn.Responses)-2:]
	s.act(ctx, s.live(got[0].GetResponseRange()), got[1].GetResponseRange())
	if beat {
		return s.renew(ctx)
	}
	return nil
}

func (s *session) failed(ctx context.Context, beat bool, err error) {
	if ctx.Err() != nil {
		return
	}
	s.count(beat, "failed")
	if !s.silent {
		s.store.log.Warn("heartbeat cannot be written", "replica", s.m.cfg.ID, "error", err)
	}
	s.silent = true
	s.store.wrote(err)
}

func (s *session) count(beat bool, outcome string) {
	if beat {
		s.store.metrics.heartbeats.WithLabelValues(outcome).Inc()
	}
}

// mine holds while the replica key is the one that this session created.
func (s *session) mine() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(s.key), "=", s.created)
}

func (s *session) heartbeat(tick uint64) (string, error) {
	b, err := keys.Encode(&storev1.Replica{
		Id:        s.m.cfg.ID,
		Tick:      tick,
		Confirmed: s.m.confirmed(tick),
		Address:   s.m.cfg.Address,
		Clusters:  s.m.cfg.Clusters,
		Epochs:    s.m.demanded(),
	})
	if err != nil {
		return "", fmt.Errorf("store: heartbeat: %w", err)
	}
	return string(b), nil
}

// live gives the clusters that each living replica is entitled to.
func (s *session) live(replicas *etcdserverpb.RangeResponse) map[string][]string {
	live := map[string][]string{s.m.cfg.ID: s.m.cfg.Clusters}
	for _, kv := range replicas.GetKvs() {
		k, err := s.store.schema.Parse(string(kv.Key))
		if err != nil {
			continue
		}
		var r storev1.Replica
		// A heartbeat that cannot be read makes nobody alive.
		if keys.Decode(kv.Value, &r) == nil && r.GetId() == k.Replica {
			live[k.Replica] = r.GetClusters()
			s.heed(r.GetEpochs())
		}
	}
	return live
}

// heed takes what another replica knows to be demanded of the owners of clusters.
func (s *session) heed(epochs map[string]uint64) {
	for _, c := range s.m.cfg.Clusters {
		if epoch := epochs[c]; epoch > 0 {
			s.m.RaiseEpoch(c, epoch)
		}
	}
}

// act starts and ends terms by what the store says.
func (s *session) act(ctx context.Context, live map[string][]string, owners *etcdserverpb.RangeResponse) {
	type owner struct {
		created int64
		lease   clientv3.LeaseID
	}
	owned := map[string]owner{}
	for _, kv := range owners.GetKvs() {
		if k, err := s.store.schema.Parse(string(kv.Key)); err == nil {
			owned[k.Cluster] = owner{created: kv.CreateRevision, lease: clientv3.LeaseID(kv.Lease)}
		}
	}
	now := time.Now()
	for _, c := range s.m.cfg.Clusters {
		o, has := owned[c]
		t := s.terms[c]
		mine := preferred(c, live) == s.m.cfg.ID
		switch {
		case t != nil && (!has || o.created != t.fence || o.lease != s.lease):
			t.end(ErrNotOwner)
		case t != nil && !mine:
			t.end(errPreferred)
		case t != nil, now.Before(s.notBefore[c]):
		case has && o.lease == s.lease:
			// Ours, though no goroutine has it: the answer to the campaign was lost on the way.
			s.begin(ctx, c, o.created)
		case mine && !has:
			if !s.campaign(ctx, c) {
				return // the lease is more urgent than asking for the next one
			}
		}
	}
}

// campaign takes a cluster that has no owner. It reports whether the store answered; if it did
// not, the next look shows how the campaign ended.
func (s *session) campaign(ctx context.Context, cluster string) bool {
	key := s.store.schema.Format(keys.Key{Kind: keys.Owner, Cluster: cluster})
	value, err := keys.Encode(&storev1.Owner{Replica: s.m.cfg.ID})
	if err != nil {
		s.store.log.Error("owner key cannot be written", "cluster", cluster, "error", err)
		return true
	}
	rctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	txn, err := s.store.client.Txn(rctx).
		If(s.mine(), clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(s.lease))).Commit()
	if err != nil {
		return false
	}
	if txn.Succeeded {
		s.begin(ctx, cluster, txn.Header.GetRevision())
	}
	return true
}

// begin starts the goroutine of a cluster whose owner key is ours.
func (s *session) begin(ctx context.Context, cluster string, fence int64) {
	t := newTerm(ctx, s, cluster, fence)
	s.terms[cluster] = t
	go func() {
		t.run(s.hold)
		s.ended <- t
	}()
}

// bury forgets a term whose goroutine has ended.
func (s *session) bury(t *Term) {
	delete(s.terms, t.cluster)
	if errors.Is(context.Cause(t.ctx), errHoldEnded) {
		s.notBefore[t.cluster] = time.Now().Add(holdPause)
	}
	s.store.metrics.terms.WithLabelValues(termEnd(context.Cause(t.ctx))).Inc()
}

func termEnd(cause error) string {
	for word, err := range map[string]error{
		"lost": ErrNotOwner, "preferred": errPreferred, "epoch-raised": errEpochRaised,
		"lease-lost": errLeaseLost, "hold-ended": errHoldEnded,
	} {
		if errors.Is(cause, err) {
			return word
		}
	}
	return "stopped"
}

// watchOwners makes the loop look at once when an owner key goes. The loop looks every beat
// anyway, so a watch that breaks costs no more than a beat.
func (s *session) watchOwners(ctx context.Context) {
	for ctx.Err() == nil {
		wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		ch := s.store.client.Watch(wctx, s.store.schema.Owners(), clientv3.WithPrefix(), clientv3.WithFilterPut())
		for resp := range ch {
			if resp.Err() != nil {
				break
			}
			select {
			case s.kick <- struct{}{}:
			default:
			}
		}
		cancel()
		pause(ctx, s.m.beat)
	}
}

// revoke gives the lease back and with it all keys under it. If that fails it expires.
func (s *session) revoke(ctx context.Context) {
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	_, err := s.store.client.Revoke(rctx, s.lease)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.m.left = s.lease
		s.store.log.Debug("lease is left to expire", "replica", s.m.cfg.ID, "error", err)
	}
}

// clear takes back the lease of the session before, if that could not: a store that was away
// grants every lease its full time again when it comes back.
func (s *session) clear(ctx context.Context) error {
	if s.m.left == 0 {
		return nil
	}
	rctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := s.store.client.Revoke(rctx, s.m.left); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("store: take back the last lease: %w", err)
	}
	s.m.left = 0
	return nil
}
