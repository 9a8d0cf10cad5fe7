package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// newStore makes a store whose metrics and log are the test's own.
func newStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Federation == "" {
		cfg.Federation = "demo"
	}
	s, err := New(cfg, Deps{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runStore runs a store until the test ends or stop is called, and waits until it is ready.
func runStore(t testing.TB, s *Store) (stop func()) {
	t.Helper()
	stop = testkit.Go(t, "store", s.Run)
	select {
	case <-s.Ready():
	case <-testkit.Context(t).Done():
		t.Fatal("the store is not ready")
	}
	return stop
}

func embeddedStore(t testing.TB, dir string) (s *Store, stop func()) {
	t.Helper()
	s = newStore(t, Config{Embedded: &EmbeddedConfig{DataDir: dir}})
	return s, runStore(t, s)
}

// server is a real etcd of one member, in this process but reached over TCP.
type server struct{ addr string }

func startServer(t testing.TB) *server {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "test", t.TempDir()
	at := func(port int) []url.URL { return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}} }
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, at(1)
	cfg.ListenClientUrls = at(testkit.FreePort(t))
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.InitialCluster = "test=" + cfg.AdvertisePeerUrls[0].String()
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet(testkit.Quiet()))
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-testkit.Context(t).Done():
		t.Fatal("etcd is not ready")
	}
	return &server{addr: cfg.ListenClientUrls[0].Host}
}

// replica is a synchronizer's store on a server, behind a wire that can be cut.
type replica struct {
	*Store
	wire *wire
	stop func()
}

func (s *server) replica(t testing.TB, dataDir string) *replica {
	t.Helper()
	w := newWire(t, s.addr)
	r := &replica{wire: w, Store: newStore(t, Config{Etcd: &EtcdConfig{Endpoints: []string{w.addr}, DataDir: dataDir}})}
	r.stop = runStore(t, r.Store)
	return r
}

// wire forwards TCP connections. While it is held nothing comes through, in one direction or
// both, and nobody is told: as when a host hangs or a network loses packets.
type wire struct {
	addr     string
	requests gate
	answers  gate
}

type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while bytes may pass
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
	default:
		if open {
			close(g.open)
		}
	}
}

func (g *gate) passable() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func newWire(t testing.TB, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String()}
	w.requests.open, w.answers.open = make(chan struct{}), make(chan struct{})
	close(w.requests.open)
	close(w.answers.open)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.serve(ctx, c, to) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
	return w
}

func (w *wire) serve(ctx context.Context, c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close(); _ = s.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pump(ctx, s, c, &w.requests); _ = s.Close() })
	both.Go(func() { pump(ctx, c, s, &w.answers); _ = c.Close() })
	both.Wait()
}

func pump(ctx context.Context, to io.Writer, from io.Reader, g *gate) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-g.passable():
		case <-ctx.Done():
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (w *wire) hold()    { w.requests.set(false); w.answers.set(false) }
func (w *wire) release() { w.requests.set(true); w.answers.set(true) }

// testTTL is longer than a machine that is busy with other things keeps a heartbeat waiting. Only who
// dies without a word lets others wait for so long.
const testTTL = 20 * time.Second

// member makes a member that beats fast, with a lease that is not lost by chance.
func member(s *Store, id string, clusters ...string) *Member {
	m := s.Member(MemberConfig{ID: id, Address: id + ":7700", Clusters: clusters})
	m.ttl, m.beat = testTTL, 100*time.Millisecond
	return m
}

// office runs a member and shows the terms it holds.
type office struct {
	*Member
	stop func()

	mu    sync.Mutex
	terms []*Term // all there ever were
}

// openOffice runs m. Each hold lasts as long as its term.
func openOffice(t testing.TB, m *Member) *office {
	t.Helper()
	o := &office{Member: m}
	o.stop = testkit.Go(t, "member "+m.cfg.ID, func(ctx context.Context) error {
		return m.Run(ctx, func(ctx context.Context, term *Term) error {
			o.mu.Lock()
			o.terms = append(o.terms, term)
			o.mu.Unlock()
			<-ctx.Done()
			return ctx.Err()
		})
	})
	return o
}

func (o *office) all() []*Term {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.terms)
}

// term waits for the n-th term of a cluster, the first being 1.
func (o *office) term(t testing.TB, ctx context.Context, cluster string, n int) *Term {
	t.Helper()
	var found *Term
	testkit.Eventually(t, ctx, fmt.Sprintf("term %d of %s at %s", n, cluster, o.cfg.ID), func() error {
		seen := 0
		for _, term := range o.all() {
			if term.Cluster() == cluster {
				if seen++; seen == n {
					found = term
					return nil
				}
			}
		}
		return fmt.Errorf("%d terms", seen)
	})
	return found
}

func publish(t testing.TB, ctx context.Context, term *Term, full bool, lists map[catalog.Name]List) {
	t.Helper()
	if err := term.Publish(ctx, lists, full); err != nil {
		t.Fatal(err)
	}
}

// one is the lists of a single service, cart.
func one(ids string) map[catalog.Name]List {
	return map[catalog.Name]List{cart: {Instances: list(ids)}}
}

// reader is a Sink that keeps what a reader would: it marks at Begin and sweeps at End.
type reader struct {
	mu      sync.Mutex
	ids     []string // of every Begin
	lists   int      // completed
	live    bool
	marked  map[string]bool
	entries map[string]Entry
	at      int64
	faults  []string
	onEnd   func(revision int64)
	onApply func(entries []Entry)
}

func read(t testing.TB, s *Store) *reader { return readTo(t, s, &reader{}) }

func readTo(t testing.TB, s *Store, r *reader) *reader {
	t.Helper()
	r.entries = map[string]Entry{}
	testkit.Go(t, "watch", func(ctx context.Context) error { return s.Watch(ctx, r) })
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, f := range r.faults {
			t.Error("the watch broke its contract:", f)
		}
	})
	return r
}

func (r *reader) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

func (r *reader) Begin(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, id)
	r.live, r.marked = false, map[string]bool{}
}

func (r *reader) Apply(entries []Entry, revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids) == 0 {
		r.fault("Apply before Begin")
		return
	}
	if r.onApply != nil {
		r.onApply(entries)
	}
	last := int64(0)
	for _, e := range entries {
		switch {
		case strings.Contains(e.Key, "/owners/"):
			r.fault("an owner key came: %s", e.Key)
		case e.Revision > revision:
			r.fault("%s of revision %d in a batch up to %d", e.Key, e.Revision, revision)
		case r.live && (e.Revision <= r.at || e.Revision < last):
			r.fault("revision %d after %d", e.Revision, max(r.at, last))
		case !r.live && e.Deleted:
			r.fault("%s is deleted within a list", e.Key)
		}
		last = e.Revision
		if e.Deleted {
			delete(r.entries, e.Key)
		} else {
			r.entries[e.Key] = e
		}
		if !r.live {
			r.marked[e.Key] = true
		}
	}
	if r.live {
		r.at = revision
	}
}

func (r *reader) End(revision int64) {
	r.mu.Lock()
	maps.DeleteFunc(r.entries, func(k string, _ Entry) bool { return !r.marked[k] })
	r.live, r.at = true, revision
	r.lists++
	onEnd := r.onEnd
	r.mu.Unlock()
	if onEnd != nil {
		onEnd(revision)
	}
}

// get decodes what the reader has under a key, and reports whether it has anything.
func (r *reader) get(key string, into proto.Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[key]
	return ok && keys.Decode(e.Value, into) == nil
}

// waitFor waits until the reader satisfies ok.
func (r *reader) waitFor(t testing.TB, what string, ok func() error) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		return ok()
	})
}

// stored reads what the store holds of a cluster: "service/slice epoch.seq: ids" by line.
func stored(t testing.TB, s *Store, cluster string) string {
	t.Helper()
	resp, err := s.client.Get(testkit.Context(t), s.schema.Services(cluster), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, kv := range resp.Kvs {
		k, err := s.schema.Parse(string(kv.Key))
		var v storev1.Slice
		if err = errors.Join(err, keys.Decode(kv.Value, &v)); err != nil {
			t.Fatal(err)
		}
		ids := ""
		for _, i := range v.Instances {
			ids += " " + i.Id
			if i.Port != 1 {
				ids += ":" + strconv.Itoa(int(i.Port))
			}
		}
		lines = append(lines, fmt.Sprintf("%s/%d e%d:%s", k.Name.Service, k.Slice, v.Epoch, ids))
	}
	return strings.Join(lines, "\n")
}

func wantStored(t testing.TB, s *Store, cluster, want string) {
	t.Helper()
	if got := stored(t, s, cluster); got != want {
		t.Errorf("the store holds of %s:\n%s\nwant:\n%s", cluster, got, want)
	}
}

func revision(t testing.TB, s *Store) (rev int64) {
	t.Helper()
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "the store says at which revision it is", func() (err error) {
		_, rev, err = s.identify(ctx) // which does not wait long
		return err
	})
	return rev
}
