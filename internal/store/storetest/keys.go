package storetest

import (
	"bytes"
	"cmp"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// at gives a key as it was at a revision.
func (s *state) at(key string, rev int64) *Key {
	vs := s.versions[key]
	for n := len(vs) - 1; n >= 0; n-- {
		if vs[n].ModRevision <= rev {
			if vs[n].Version == 0 {
				return nil
			}
			return vs[n]
		}
	}
	return nil
}

// txn gathers the changes of one revision. The store's mu is held from begin to commit.
type txn struct {
	e       *Etcd
	by      string
	rev     int64
	changes []Change
}

func (e *Etcd) begin(by string) *txn { return &txn{e: e, by: by, rev: e.state.rev + 1} }

func (t *txn) put(key string, value []byte, id int64) {
	s := &t.e.state
	was := s.at(key, t.rev)
	is := &Key{Key: []byte(key), Value: value, Lease: id, ModRevision: t.rev, CreateRevision: t.rev, Version: 1}
	if was != nil {
		is.CreateRevision, is.Version = was.CreateRevision, was.Version+1
		t.detach(was)
	}
	if l := s.leases[id]; l != nil {
		l.keys[key] = struct{}{}
	}
	t.add(key, was, is, false)
}

func (t *txn) remove(key string) bool {
	was := t.e.state.at(key, t.rev)
	if was == nil {
		return false
	}
	t.detach(was)
	t.add(key, was, &Key{Key: was.Key, ModRevision: t.rev}, true)
	return true
}

func (t *txn) detach(was *Key) {
	if l := t.e.state.leases[was.Lease]; l != nil {
		delete(l.keys, string(was.Key))
	}
}

func (t *txn) add(key string, was, is *Key, del bool) {
	s := &t.e.state
	if len(s.versions[key]) == 0 {
		at, _ := slices.BinarySearch(s.keys, key)
		s.keys = slices.Insert(s.keys, at, key)
	}
	s.versions[key] = append(s.versions[key], is)
	s.events = append(s.events, event{t.rev, is, del})
	if del {
		t.changes = append(t.changes, Change{Was: was})
	} else {
		t.changes = append(t.changes, Change{Was: was, Is: is})
	}
}

func (t *txn) commit() {
	if len(t.changes) == 0 {
		return
	}
	e := t.e
	if e.observe != nil {
		e.observe(&Commit{Revision: t.rev, By: t.by, Changes: t.changes, get: func(key string) *Key { return e.state.at(key, t.rev-1) }})
	}
	e.state.rev = t.rev
	e.wake()
}

// header is of an answer given now. Caller holds mu.
func (e *Etcd) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: e.state.rev}
}

// ranged reads a range as it was at a revision.
func (s *state) ranged(key, end []byte, rev int64) []*Key {
	if len(end) == 0 {
		if kv := s.at(string(key), rev); kv != nil {
			return []*Key{kv}
		}
		return nil
	}
	var out []*Key
	at, _ := slices.BinarySearch(s.keys, string(key))
	for _, k := range s.keys[at:] {
		if k >= string(end) {
			break
		}
		if kv := s.at(k, rev); kv != nil {
			out = append(out, kv)
		}
	}
	return out
}

func (e *Etcd) rangeKeys(r *etcdserverpb.RangeRequest, now int64) (*etcdserverpb.RangeResponse, error) {
	rev := r.Revision
	switch {
	case rev == 0:
		rev = now
	case rev > now:
		return nil, rpctypes.ErrGRPCFutureRev
	case rev < e.state.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	}
	kvs := e.state.ranged(r.Key, r.RangeEnd, rev)
	resp := &etcdserverpb.RangeResponse{Header: e.header(), Count: int64(len(kvs))}
	if limit := min(int(r.Limit), pageKeys); limit > 0 && len(kvs) > limit {
		kvs, resp.More = kvs[:limit], true
	}
	if r.KeysOnly {
		bare := make([]*Key, 0, len(kvs))
		for _, kv := range kvs {
			bare = append(bare, &Key{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease})
		}
		kvs = bare
	}
	resp.Kvs = kvs
	return resp, nil
}

// holds reports whether a comparison does.
func (e *Etcd) holds(c *etcdserverpb.Compare) bool {
	kvs := e.state.ranged(c.Key, c.RangeEnd, e.state.rev)
	if len(kvs) == 0 {
		if len(c.RangeEnd) != 0 {
			return true
		}
		if c.Target == etcdserverpb.Compare_VALUE {
			return false
		}
		kvs = []*Key{{}}
	}
	return !slices.ContainsFunc(kvs, func(kv *Key) bool { return !fits(c, kv) })
}

func fits(c *etcdserverpb.Compare, kv *Key) bool {
	var by int
	switch c.Target {
	case etcdserverpb.Compare_VALUE:
		by = bytes.Compare(kv.Value, c.GetValue())
	case etcdserverpb.Compare_CREATE:
		by = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case etcdserverpb.Compare_MOD:
		by = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case etcdserverpb.Compare_VERSION:
		by = cmp.Compare(kv.Version, c.GetVersion())
	case etcdserverpb.Compare_LEASE:
		by = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case etcdserverpb.Compare_EQUAL:
		return by == 0
	case etcdserverpb.Compare_NOT_EQUAL:
		return by != 0
	case etcdserverpb.Compare_GREATER:
		return by > 0
	}
	return by < 0
}

// transact is a transaction that arrived.
func (e *Etcd) transact(by string, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	ok := !slices.ContainsFunc(r.Compare, func(c *etcdserverpb.Compare) bool { return !e.holds(c) })
	ops := r.Success
	if !ok {
		ops = r.Failure
	}
	for _, op := range ops {
		if put := op.GetRequestPut(); put.GetLease() != 0 && e.state.leases[put.GetLease()] == nil {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
	}
	t := e.begin(by)
	resp := &etcdserverpb.TxnResponse{Succeeded: ok}
	for _, op := range ops {
		out, err := e.operate(t, op)
		if err != nil {
			return nil, err // only reads fail here, and ours come with no writes that could
		}
		resp.Responses = append(resp.Responses, out)
	}
	t.commit()
	resp.Header = e.header()
	return resp, nil
}

func (e *Etcd) operate(t *txn, op *etcdserverpb.RequestOp) (*etcdserverpb.ResponseOp, error) {
	switch op := op.Request.(type) {
	case *etcdserverpb.RequestOp_RequestPut:
		t.put(string(op.RequestPut.Key), op.RequestPut.Value, op.RequestPut.Lease)
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: &etcdserverpb.PutResponse{}}}, nil
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		out := &etcdserverpb.DeleteRangeResponse{}
		for _, kv := range e.state.ranged(op.RequestDeleteRange.Key, op.RequestDeleteRange.RangeEnd, t.rev) {
			if t.remove(string(kv.Key)) {
				out.Deleted++
			}
		}
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: out}}, nil
	case *etcdserverpb.RequestOp_RequestRange:
		// What the transaction wrote before is seen.
		out, err := e.rangeKeys(op.RequestRange, max(e.state.rev, t.rev))
		if err != nil {
			return nil, err
		}
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: out}}, nil
	}
	return nil, rpctypes.ErrGRPCNotCapable
}
