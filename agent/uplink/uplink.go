// Package uplink keeps an agent connected to its federation: it follows the feed of one of the
// synchronizers into a mirror, tells that synchronizer what the agent says of itself, and keeps
// the last view on disk for a start with everything else down.
//
// It does not decide what the lists mean; the view does. A lost connection changes nothing that
// was learnt.
//
// Goroutines: Run owns one that reports, one that saves and one for Deps.Consult, beside its own
// that reads.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
)

const (
	// retryCap bounds the pause between two tries to connect; the pause is jittered below it.
	retryCap = time.Second
	// reportEvery is how often a connected agent says which revision it has applied.
	reportEvery = 5 * time.Second
	// leaveWithin bounds the goodbye on shutdown.
	leaveWithin = time.Second
	// maxMessage bounds one feed message: a snapshot's part or one transaction's changes.
	maxMessage = 16 << 20
	// maxReport bounds a report, in bytes: gRPC's servers take 4 MiB.
	maxReport = 4<<20 - 64<<10
	// maxRefused is how many policies that are not understood a report names, each with so many bytes
	// at most: beside all policies they must fit into a message.
	maxRefused     = 20
	maxRefusedText = 500
)

// Config is what an uplink is told.
type Config struct {
	// Synchronizers are host:port; any of them will do.
	Synchronizers []string
	// Agent is what the agent says of itself.
	Agent *catalogv1.Agent
	// Credentials are how synchronizers are spoken to; nil is for plaintext.
	Credentials credentials.TransportCredentials
	// File is where the last view is kept; empty for nowhere.
	File string
}

// A Listener is told what the feed brought. Its methods are called by one goroutine.
type Listener interface {
	// Attach gives the mirror that Changed is about, once, before the first Changed.
	Attach(*mirror.Mirror)
	// Changed says what changed in the mirror.
	Changed(mirror.Changes)
}

// Deps are what an uplink uses and does not make.
type Deps struct {
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Listener Listener
	// Consult, where not nil, is given the connection of each session once the feed is up, and
	// answers over it what the synchronizer asks until ctx is done. An error ends the session.
	Consult func(ctx context.Context, client feedv1.FeedClient) error
	// Held, where not nil, gives what every report says that the agent holds back of its own
	// registries. It is called by one goroutine and must not block.
	Held func(now time.Time) []*feedv1.HeldBack
}

// Uplink is an agent's connection to its federation.
type Uplink struct {
	cfg      Config
	log      *slog.Logger
	listener Listener
	consult  func(context.Context, feedv1.FeedClient) error
	held     func(time.Time) []*feedv1.HeldBack
	metrics  *metrics
	registry prometheus.Registerer

	// Only Run's goroutine writes these two; the reporter and the saver read them.
	federation atomic.Pointer[string]
	mirror     atomic.Pointer[mirror.Mirror]

	loaded    sync.Once
	dirty     chan struct{} // holds a token while there is something to save
	decreed   chan struct{} // holds a token while policies changed that no report told of
	connected atomic.Bool
	trouble   atomic.Pointer[error]
	saves     uint64 // of the view over all its lives; load's, then the saver's
	anew      bool   // what is held lacks something: the next feed begins with everything; the reader's
	drifts    atomic.Uint64
	handed    atomic.Bool          // what is held comes from another version's view, and was not told anew whole
	waits     map[string]time.Time // until when a synchronizer asked to be left alone; follow's
}

// New returns an uplink; it starts nothing.
func New(cfg Config, deps Deps) *Uplink {
	u := &Uplink{
		cfg: cfg, log: deps.Log, listener: deps.Listener, consult: deps.Consult, held: deps.Held, registry: deps.Metrics,
		dirty:   make(chan struct{}, 1),
		decreed: make(chan struct{}, 1),
		waits:   map[string]time.Time{},
	}
	u.metrics = newMetrics(deps.Metrics, &u.connected)
	return u
}

// Connected reports whether the feed is up.
func (u *Uplink) Connected() bool { return u.connected.Load() }

// Trouble is why the feed went down last, nil where it never did.
func (u *Uplink) Trouble() error {
	if err := u.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// refused reports whether the feed went down last because another agent has this one's place.
func (u *Uplink) refused() bool {
	return status.Code(errors.Unwrap(u.Trouble())) == codes.AlreadyExists || status.Code(u.Trouble()) == codes.AlreadyExists
}

// Federation is the one the agent is in; empty until its feed or its saved view said so.
func (u *Uplink) Federation() string {
	if f := u.federation.Load(); f != nil {
		return *f
	}
	return ""
}

// Stale reports whether the feed, up or not, says nothing fresh of any cluster.
func (u *Uplink) Stale() bool {
	m := u.mirror.Load()
	if m == nil {
		return false // nothing is known yet, which is another thing
	}
	clusters := m.Clusters(time.Now())
	return len(clusters) > 0 && !slices.ContainsFunc(clusters, func(c mirror.Cluster) bool { return c.State != catalog.StateStale })
}

// Load starts from the last view on disk, where there is one; Run does it where nobody did before.
// Whoever takes calls loads first: a call must not find an agent that knows nothing of what it has
// saved.
func (u *Uplink) Load() { u.loaded.Do(u.load) }

// Run loads the last view and then follows the feed until ctx is done, when it takes back the
// agent's record, saves the view and returns ctx.Err(). A synchronizer that cannot be reached, or
// serves another federation, is tried again for ever.
func (u *Uplink) Run(ctx context.Context) error {
	u.Load()
	g, gctx := errgroup.WithContext(ctx)
	if u.cfg.File != "" {
		g.Go(func() error { return u.keepSaved(gctx) })
	}
	if len(u.cfg.Synchronizers) > 0 {
		g.Go(func() error { return u.follow(gctx) })
	}
	g.Go(func() error {
		<-gctx.Done()
		return gctx.Err()
	})
	return g.Wait()
}

// follow connects to one synchronizer after the other, beginning with a random one so that a
// federation's agents spread over its replicas. One that asks to be left alone for a while is.
func (u *Uplink) follow(ctx context.Context) error {
	next := rand.IntN(len(u.cfg.Synchronizers))
	told := "" // the last error that was logged: a synchronizer that stays away is news once
	for ctx.Err() == nil {
		address, wait := u.choose(&next, time.Now())
		if wait > 0 && !pause(ctx, wait) {
			break
		}
		began := time.Now()
		err := u.session(ctx, address)
		u.connected.Store(false)
		if ctx.Err() != nil {
			break
		}
		u.metrics.disconnects.Inc()
		u.trouble.Store(&err)
		if word := fmt.Sprint(address, err); word != told {
			u.log.Warn("no feed; calls go on with what is known", "synchronizer", address, "error", err)
			told = word
		}
		if time.Since(began) > 2*retryCap {
			told = ""
		}
		if after := retryAfter(err); after > 0 {
			u.metrics.askedToWait.Inc()
			// Those that were told the same must not come back at the same moment.
			u.waits[address] = time.Now().Add(after + rand.N(after))
		}
		if !pause(ctx, rand.N(retryCap)) {
			break
		}
	}
	return ctx.Err()
}

// Dial returns a connection to a synchronizer, which it does not wait for. Where one name stands
// for several synchronizers, every Dial may lead to another of them. Without credentials, nil, it is
// plaintext.
func Dial(address string, c credentials.TransportCredentials) (*grpc.ClientConn, error) {
	if c == nil {
		c = insecure.NewCredentials()
	}
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(c),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}`),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}

// errFederation says that a synchronizer belongs to another federation than the view on disk.
var errFederation = errors.New("another federation")

// session follows one synchronizer until the connection fails.
func (u *Uplink) session(ctx context.Context, address string) error {
	conn, err := Dial(address, u.cfg.Credentials)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is lost with a connection that is given up
	client := feedv1.NewFeedClient(conn)
	// The agent says nothing of itself before it knows that it is in the right federation. When
	// its report is refused (another agent has this place), the feed is left too.
	joined := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.watch(gctx, client, address, joined) })
	g.Go(func() error {
		select {
		case <-joined:
			return u.report(gctx, ctx, client)
		case <-gctx.Done():
			return gctx.Err()
		}
	})
	if u.consult != nil {
		g.Go(func() error {
			select {
			case <-joined:
				return u.consult(gctx, client)
			case <-gctx.Done():
				return gctx.Err()
			}
		})
	}
	return g.Wait()
}

// watch applies one stream of the feed; it closes joined when the stream is known to be of the
// agent's own federation.
func (u *Uplink) watch(ctx context.Context, client feedv1.FeedClient, address string, joined chan<- struct{}) error {
	req := &feedv1.WatchRequest{Cluster: u.cfg.Agent.GetCluster(), Node: u.cfg.Agent.GetNode()}
	if f := u.federation.Load(); f != nil {
		req.Federation = *f
		m := u.mirror.Load()
		m.Abandon() // a snapshot that the last stream did not end
		if !u.anew {
			req.StoreId, req.Revision = m.Position()
			req.Digest = digestOf(m)
		}
	}
	stream, err := client.Watch(ctx, req)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if first {
			if err := u.join(m.GetFederation()); err != nil {
				return err
			}
			level := slog.LevelInfo
			if u.refused() {
				level = slog.LevelDebug // it is up again and again, until the report is refused again
			}
			u.log.Log(ctx, level, "feed is up", "synchronizer", address, "federation", m.GetFederation(), "rev", m.GetRevision())
		}
		if err := u.apply(m); err != nil {
			return err
		}
		if first {
			u.connected.Store(true)
			close(joined)
		}
	}
}

// join makes the mirror for the federation that the agent finds itself in.
func (u *Uplink) join(federation string) error {
	if f := u.federation.Load(); f != nil {
		if *f != federation {
			return fmt.Errorf("%w: it serves %q, this agent's data directory belongs to %q", errFederation, federation, *f)
		}
		return nil
	}
	schema, err := keys.New(federation)
	if err != nil {
		return err
	}
	m := mirror.New(schema)
	u.registry.MustRegister(mirror.NewCollector(m, time.Now))
	u.mirror.Store(m)
	u.federation.Store(&federation)
	u.listener.Attach(m)
	return nil
}

// apply takes one message of the feed.
func (u *Uplink) apply(m *feedv1.WatchResponse) error {
	mi := u.mirror.Load()
	if parts := m.GetDrifted(); len(parts) > 0 {
		u.noteDrift(parts)
	}
	if m.GetSnapshotBegin() {
		u.metrics.snapshots.Inc()
		mi.Begin(m.GetStoreId())
	}
	ch := mi.Apply(time.Now(), m.GetEntries(), m.GetRevision())
	if !ch.Empty() {
		u.tell(ch)
	}
	if m.GetSnapshotEnd() {
		ch := mi.End(m.GetRevision())
		u.anew = false
		u.handed.Store(false) // before anybody saves it
		u.tell(ch)
	}
	return u.whole(m)
}

// tell passes a change on and has it saved.
func (u *Uplink) tell(ch mirror.Changes) {
	u.listener.Changed(ch)
	select {
	case u.dirty <- struct{}{}:
	default: // a save is due already
	}
	if ch.Policies {
		select {
		case u.decreed <- struct{}{}:
		default: // a report is due already
		}
	}
}

// report says what the agent is and how far it has come: now, every few seconds, and as soon as it
// has applied other policies, until the session or the agent's life is over. Only in the second
// case it says goodbye, so that its record goes with it: a lost connection takes nothing back.
func (u *Uplink) report(session, life context.Context, client feedv1.FeedClient) error {
	sctx, cancel := context.WithCancel(context.WithoutCancel(session))
	defer cancel()
	stream, err := client.Report(sctx)
	if err != nil {
		return err
	}
	// A synchronizer that does not read must not hold up a goodbye, or the next synchronizer.
	defer context.AfterFunc(session, func() { time.AfterFunc(leaveWithin, cancel) })()
	ended := make(chan error, 1)
	go func() {
		// The server answers only to refuse, or when all is said.
		var resp feedv1.ReportResponse
		ended <- stream.RecvMsg(&resp)
	}()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		now, err := u.reportNow(false)
		if err != nil {
			cancel()
			<-ended
			return err
		}
		if err := stream.Send(now); err != nil {
			return fmt.Errorf("report: %w", <-ended)
		}
		select {
		case err := <-ended:
			return fmt.Errorf("report: %w", err)
		case <-tick.C:
		case <-u.decreed:
		case <-session.Done():
			if life.Err() != nil {
				u.leave(stream, ended)
			} else {
				cancel()
				<-ended
			}
			return session.Err()
		}
	}
}

func (u *Uplink) reportNow(leaving bool) (*feedv1.ReportRequest, error) {
	m := u.mirror.Load() // there is one: the agent reports only once it has joined
	r := &feedv1.ReportRequest{Agent: u.cfg.Agent, Leaving: leaving, Federation: *u.federation.Load(), Epochs: map[string]uint64{}}
	r.StoreId, r.Revision = m.Position()
	if d, ok := m.Digest(); ok { // of one moment with what it is of
		r.StoreId, r.Revision, r.Digest = d.StoreID, d.Revision, &feedv1.Digest{Parts: d.Parts}
	}
	r.Drifts = u.drifts.Load()
	if u.held != nil {
		r.Held = u.held(time.Now())
	}
	for _, c := range m.Clusters(time.Now()) {
		r.Epochs[c.Name] = c.Demand
	}
	p := m.Policies()
	r.PolicyRevision, r.PoliciesRefused = p.Set.Revision(), told(p.Refused)
	if !p.Behind {
		return r, nil
	}
	var err error
	if r.Policies, err = m.PolicyEntries(); err != nil {
		return nil, fmt.Errorf("report policies: %w", err)
	}
	if size := proto.Size(r); size > maxReport {
		// Without them the feed stays up; with them every session would end here.
		u.log.Warn("the store has lost policies, and what is held of them is too much to be told", "bytes", size, "policies", len(r.Policies))
		r.Policies = nil
	}
	return r, nil
}

// told cuts a long list to what somebody may read.
func told(refused []string) []string {
	list := slices.Clone(refused[:min(len(refused), maxRefused)])
	for i, why := range list {
		if len(why) > maxRefusedText {
			list[i] = strings.ToValidUTF8(why[:maxRefusedText], "") + "..."
		}
	}
	if more := len(refused) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return list
}

// leave takes the record back. The stream's context ends it where nobody answers.
func (u *Uplink) leave(stream grpc.ClientStreamingClient[feedv1.ReportRequest, feedv1.ReportResponse], ended <-chan error) {
	if now, err := u.reportNow(true); err == nil && stream.Send(now) == nil {
		_ = stream.CloseSend() // the answer tells whether it arrived
	}
	<-ended
}
