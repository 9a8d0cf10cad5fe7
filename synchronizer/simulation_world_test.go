package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/store/storetest"
)

// process is one life of a replica: all of a synchronizer that stands between its registries and
// its agents, but for the listeners.
type process struct {
	s    *simulation
	name string // of the replica
	life int
	link *storetest.Link
	syn  *Synchronizer
	stop context.CancelFunc
	ctx  context.Context
	once sync.Once
}

// begin starts a new life of a replica.
func (s *simulation) begin(n int) *process {
	s.lives[n]++
	if s.wiped {
		// It may own a cluster under an epoch that the backup is above, before an agent tells of that.
		s.deceived.Store(true)
	}
	p := &process{s: s, name: fmt.Sprintf("r%d", n), life: s.lives[n]}
	p.link = s.etcd.Link(fmt.Sprintf("%s#%d", p.name, p.life), s.weather)
	st, err := store.New(
		store.Config{Federation: "test", Etcd: &store.EtcdConfig{Endpoints: []string{"model"}}},
		store.Deps{
			Log:    s.log.With("replica", p.link.Name()),
			Dial:   p.link.Dial,
			Jitter: func(d time.Duration) time.Duration { return s.chance(p.link.Name()+" jitter", d) },
		})
	if err != nil {
		s.violated(errNotConverged, "store: %v", err)
		return nil
	}
	m := mirror.New(s.schema)
	mt := newMetrics(prometheus.NewRegistry(), m)
	syn := &Synchronizer{
		cfg: Config{Federation: "test"}, log: s.log.With("replica", p.link.Name()), metrics: mt, store: st, mirror: m,
		hub: newHub(s.schema, "test", m, mt), tables: map[string]*table{},
	}
	for _, c := range s.clusters {
		syn.tables[c] = newTable()
	}
	syn.member = st.Member(store.MemberConfig{ID: p.name, Address: p.name + ":7700", Clusters: s.clusters, Demand: m.Demand})
	syn.roster = newRoster(st, syn.member, m, syn.tables, &auditor{hub: syn.hub, log: syn.log, metrics: mt.drift}, syn.log)
	syn.sink = &judged{hub: syn.hub, judge: s.judge(p.link.Name(), m)}
	p.syn = syn
	p.ctx, p.stop = context.WithCancel(s.ctx)
	s.set(n, p)
	p.run()
	return p
}

// run starts all goroutines of the process.
func (p *process) run() {
	storeCtx, stopStore := context.WithCancel(context.Background())
	var users sync.WaitGroup
	p.s.wg.Go(func() { _ = p.syn.store.Run(storeCtx) })
	users.Go(func() { _ = p.syn.store.Watch(p.ctx, p.syn.sink) })
	users.Go(func() {
		select {
		case <-p.syn.hub.listed:
			_ = p.syn.member.Run(p.ctx, p.own)
		case <-p.ctx.Done():
		}
	})
	users.Go(func() {
		_ = p.syn.afterStore(p.ctx, func() error { return (&keeper{s: p.syn, log: p.syn.log}).run(p.ctx) })
	})
	users.Go(p.compare)
	p.s.wg.Go(func() {
		users.Wait()
		stopStore()
	})
}

// kill ends the process at once: nothing that it sends arrives any more.
func (p *process) kill() {
	p.once.Do(func() { p.link.Close() })
	p.stop()
}

// compare is comparer.run, whose first pause is left to chance.
func (p *process) compare() {
	for first := true; ; first = false {
		d := compareEvery
		if first {
			d = p.s.chance(p.link.Name()+" compare", compareEvery)
		}
		if !pauseFor(p.ctx, d) {
			return
		}
		p.syn.comparer().compare(p.ctx)
	}
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// own publishes the truth, as Synchronizer.own publishes what the registries were read to say.
func (p *process) own(ctx context.Context, term *store.Term) error {
	s, c := p.s, term.Cluster()
	who := p.link.Name() + " " + c
	found, err := term.Found(ctx)
	if err != nil {
		return err
	}
	if !found.Whole || s.chance(who+" reads", 2) == 0 { // else its registries were read before
		if !pauseFor(ctx, s.chance(who+" first read", 1500*time.Millisecond)) {
			return ctx.Err()
		}
	}
	p.syn.hub.watchdog.begin(c)
	defer p.syn.hub.watchdog.end(c)
	o := &simulatedOwner{p: p, term: term, partly: s.chance(who+" partly", 3) == 0}
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		changed, err := o.publish(ctx)
		if err != nil {
			return err
		}
		term.Confirm()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
			if err := o.tend(ctx); err != nil {
				return err
			}
		}
	}
}

// simulatedOwner is one term of one cluster.
type simulatedOwner struct {
	p      *process
	term   *store.Term
	partly bool // it begins with some of its services only
	full   bool
	last   map[catalog.Name][]*catalog.Instance
	ticks  int
}

func (o *simulatedOwner) publish(ctx context.Context) (<-chan struct{}, error) {
	now, changed := o.p.s.truth.of(o.term.Cluster())
	if o.partly && len(now) > 1 {
		// One service alone, before the others are known.
		o.partly = false
		n := slices.MinFunc(slices.Collect(maps.Keys(now)), catalog.Name.Compare)
		return closedChannel, o.term.Publish(ctx, map[catalog.Name]store.List{n: {Instances: now[n]}}, false)
	}
	due := lists(o.last, now)
	if len(due) == 0 && o.full {
		return changed, nil
	}
	if !o.full {
		due = lists(nil, now)
	}
	if err := o.term.Publish(ctx, due, !o.full); err != nil {
		return nil, err
	}
	o.last, o.full = now, true
	return changed, nil
}

var closedChannel = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// tend is what an owner does beside its lists.
func (o *simulatedOwner) tend(ctx context.Context) error {
	c := o.term.Cluster()
	if o.full && o.p.syn.hub.watchdog.foreign(c, o.term.Wrote) {
		if err := o.term.Distrust(ctx); err != nil {
			return err
		}
		o.full, o.last = false, nil
	}
	if o.ticks++; o.ticks%4 != 1 {
		return nil
	}
	held := o.ticks/4%3 == 0
	meta := &storev1.ClusterMeta{Labels: map[string]string{"tick": fmt.Sprint(o.ticks / 8)}}
	if err := o.term.PutMeta(ctx, meta); err != nil {
		return err
	}
	if held {
		return o.term.PutHolds(ctx, []*storev1.HoldGroup{{Registry: "r", Services: []*storev1.HeldService{{Namespace: "default", Service: "a", Ids: []string{"i0"}}}}})
	}
	return o.term.PutHolds(ctx, nil)
}

// judged is the hub with a judge behind it.
type judged struct {
	hub   *hub
	judge *judge
}

func (j *judged) Begin(id string) { j.hub.Begin(id) }

func (j *judged) Apply(entries []store.Entry, revision int64) {
	j.hub.Apply(entries, revision)
	j.judge.look()
}

func (j *judged) End(revision int64) {
	j.hub.End(revision)
	j.judge.look()
}

// simulatedAgent is an agent as the feed sees it: what agent/uplink does, without the connection.
type simulatedAgent struct {
	s      *simulation
	name   string
	m      *mirror.Mirror
	judge  *judge
	record *catalogv1.Agent
	anew   bool

	mu   sync.Mutex
	cut  context.CancelFunc // ends the session
	slow bool
}

func (s *simulation) agent(n int) *simulatedAgent {
	m := mirror.New(s.schema)
	f := &simulatedAgent{s: s, name: fmt.Sprintf("a%d", n), m: m}
	f.judge = s.judge(f.name, m)
	f.record = &catalogv1.Agent{Cluster: s.clusters[0], Node: f.name, Address: f.name + ":7701", Incarnation: "1"}
	s.wg.Go(f.run)
	return f
}

// run has one session after the other, with whichever replica lives.
func (f *simulatedAgent) run() {
	for n := 0; ; n++ {
		if !pauseFor(f.s.ctx, f.s.chance(f.name+" again", time.Second)) {
			return
		}
		if p := f.s.alive(n + int(f.s.chance(f.name+" choice", 2))); p != nil {
			f.session(p)
		}
	}
}

// session follows one process until either ends it.
func (f *simulatedAgent) session(p *process) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	f.mu.Lock()
	f.cut = cancel
	f.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		defer cancel()
		_ = f.report(ctx, p)
	})
	if err := f.watch(ctx, p); err != nil && ctx.Err() == nil {
		f.s.trace("session is over", "agent", f.name, "error", err)
	}
	cancel()
	both.Wait()
}

func (f *simulatedAgent) watch(ctx context.Context, p *process) error {
	req := &feedv1.WatchRequest{Cluster: f.record.Cluster, Node: f.record.Node, Federation: "test"}
	f.m.Abandon()
	if !f.anew {
		req.StoreId, req.Revision = f.m.Position()
		if d, ok := f.m.Digest(); ok {
			req.Digest = &feedv1.Digest{Parts: d.Parts}
		}
	}
	r := p.syn.hub.follow(req)
	defer r.close(req)
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return err
		}
		f.mu.Lock()
		most := 5 * time.Millisecond
		if f.slow {
			most = time.Second
		}
		f.mu.Unlock()
		if !pauseFor(ctx, f.s.chance(f.name+" reads", most)) {
			return ctx.Err()
		}
		if m.GetSnapshotBegin() {
			f.m.Begin(m.GetStoreId())
		}
		f.m.Apply(time.Now(), m.GetEntries(), m.GetRevision())
		if m.GetSnapshotEnd() {
			f.m.End(m.GetRevision())
			f.anew = false
		}
		f.judge.look()
		if m.GetDigest() == nil {
			continue
		}
		if d, ok := f.m.Digest(); !ok || len(mirror.Differ(d.Parts, m.GetDigest().GetParts())) > 0 {
			f.anew = true
			return errors.New("changes from before the feed are missing")
		}
	}
}

func (f *simulatedAgent) report(ctx context.Context, p *process) error {
	st, err := p.syn.roster.sit(f.record)
	if err != nil {
		return err
	}
	defer p.syn.roster.leave(st)
	for first := true; ; first = false {
		d := 5 * time.Second
		if first {
			d = f.s.chance(f.name+" reports", 100*time.Millisecond)
		}
		if !pauseFor(ctx, d) {
			return ctx.Err()
		}
		if err := p.syn.roster.report(ctx, st, f.reportNow()); err != nil {
			return err
		}
	}
}

func (f *simulatedAgent) reportNow() *feedv1.ReportRequest {
	r := &feedv1.ReportRequest{Agent: f.record, Federation: "test", Epochs: map[string]uint64{}}
	r.StoreId, r.Revision = f.m.Position()
	if d, ok := f.m.Digest(); ok {
		r.StoreId, r.Revision, r.Digest = d.StoreID, d.Revision, &feedv1.Digest{Parts: d.Parts}
	}
	for _, c := range f.m.Clusters(time.Now()) {
		r.Epochs[c.Name] = c.Demand
	}
	p := f.m.Policies()
	r.PolicyRevision = p.Set.Revision()
	if p.Behind {
		r.Policies, _ = f.m.PolicyEntries()
	}
	return r
}

// behind gives the first way in which a replica or agent is not where it should be.
func (s *simulation) behind() string {
	hubs := 0
	for _, p := range s.processes() {
		hubs++
		if why := s.untrue(p.syn.mirror); why != "" {
			return p.link.Name() + ": " + why
		}
		at := p.syn.hub.standing()
		stored, known := s.etcd.ScanAt(s.schema.Root(), at.revision)
		if !known {
			return fmt.Sprintf("%s: it is at revision %d of %d", p.link.Name(), at.revision, s.etcd.Revision())
		}
		if len(at.mirrored) > 0 {
			return fmt.Sprintf("%s: its mirror makes something else of %v", p.link.Name(), names(at.mirrored))
		}
		sum := uint64(0)
		for _, kv := range stored {
			if k, err := s.schema.Parse(string(kv.Key)); err == nil && k.Kind != keys.Owner {
				sum += keys.Mark(string(kv.Key), kv.ModRevision)
			}
		}
		if sum != at.sum {
			return p.link.Name() + ": its digest is not the store's"
		}
		for _, f := range s.agents {
			r := f.reportNow()
			differ, known := p.syn.hub.compare(reported{agent: mirror.AgentKey{Cluster: f.record.Cluster, Node: f.record.Node},
				storeID: r.StoreId, revision: r.Revision, digest: r.GetDigest().GetParts(), says: r.Digest != nil})
			if !known || len(differ) > 0 {
				return fmt.Sprintf("%s: compared with %s it differs in %v (known: %v)", f.name, p.link.Name(), differ, known)
			}
		}
	}
	if hubs == 0 {
		return "nobody lives"
	}
	for _, f := range s.agents {
		if why := s.untrue(f.m); why != "" {
			return f.name + ": " + why
		}
	}
	return ""
}
