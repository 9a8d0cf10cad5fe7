package synchronizer

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
)

const (
	// compareEvery is how often what the hub holds is compared with the store, give or take a fifth.
	compareEvery = 25 * time.Second
	// maxUnknown is how far comparisons move apart that cannot be made, and maxDrifting those that find
	// drift again each time: what listing again does not mend, it does not mend by being done often.
	maxUnknown  = 2 * time.Minute
	maxDrifting = 10 * time.Minute
	// compareWithin bounds one comparison.
	compareWithin = 10 * time.Second
	// tellDrifted bounds how many of the keys that differ are named.
	tellDrifted = 20
)

// driftMetrics count what comparisons find.
type driftMetrics struct {
	keys        *prometheus.CounterVec // part
	comparisons *prometheus.CounterVec // outcome
	agents      *prometheus.CounterVec // part
	digests     *prometheus.CounterVec // outcome
	waiting     prometheus.Gauge
	turnedAway  prometheus.Counter
	snapshots   prometheus.Counter
	continued   prometheus.Counter
}

func newDriftMetrics(r prometheus.Registerer) *driftMetrics {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &driftMetrics{
		keys:        vec("farcall_synchronizer_drift_total", "Keys of which this synchronizer was found to hold something else than the store, by cluster, or what else they belong to.", "part"),
		comparisons: vec("farcall_synchronizer_comparisons_total", "Comparisons of what this synchronizer holds with the store, by outcome.", "outcome"),
		agents:      vec("farcall_feed_drift_total", "Times that an agent was found to hold something else than it was sent, and was listed again, by what differed.", "part"),
		digests:     vec("farcall_feed_digests_total", "Digests that agents reported, by outcome of the comparison.", "outcome"),
		waiting:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "farcall_feed_snapshots_waiting", Help: "Readers that wait for their turn to be sent a snapshot."}),
		turnedAway:  counter("farcall_feed_turned_away_total", "Readers told to come back later, because too many waited for a snapshot."),
		snapshots:   counter("farcall_feed_snapshots_total", "Snapshots sent to readers."),
		continued:   counter("farcall_feed_continued_total", "Readers that came back and were continued without a snapshot."),
	}
	r.MustRegister(m.keys, m.comparisons, m.agents, m.digests, m.waiting, m.turnedAway, m.snapshots, m.continued)
	return m
}

// comparer compares, over and over, what the hub holds with what the store holds. A watch of etcd may
// lose an event and go on (etcd's issue 17529 is one of several): nothing but a look at everything
// tells.
type comparer struct {
	store   *store.Store
	hub     *hub
	log     *slog.Logger
	metrics *driftMetrics
	row     int // comparisons one after the other that did not find the same; run's
}

func (s *Synchronizer) comparer() *comparer {
	return &comparer{store: s.store, hub: s.hub, log: s.log, metrics: s.metrics.drift}
}

// Outcomes of a comparison.
const (
	same    = "same"
	drift   = "drift"
	unknown = "unknown" // it could not be made
)

// run compares until ctx is done. Replicas that began together do not do so at once, nor do those
// whose store failed at the same moment.
func (c *comparer) run(ctx context.Context) error {
	pause := time.NewTimer(rand.N(compareEvery))
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
		pause.Reset(jittered(c.after(c.compare(ctx))))
	}
}

// after gives how long after a comparison of this outcome the next one is due: soon where all is well,
// and once more as soon after the first that was not, to see whether that is over.
func (c *comparer) after(outcome string) time.Duration {
	most := maxUnknown
	switch outcome {
	case same:
		c.row = 0
		return compareEvery
	case drift:
		most = maxDrifting
	}
	c.row++
	pause := compareEvery
	for n := 1; n < c.row && pause < most; n++ {
		pause *= 2
	}
	return min(pause, most)
}

// jittered gives d, more or less by up to a fifth.
func jittered(d time.Duration) time.Duration { return d - d/5 + rand.N(2*d/5) }

// compare compares once, counts the outcome, and has everything listed again where something differs.
func (c *comparer) compare(ctx context.Context) (outcome string) {
	ctx, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	outcome = same
	drifted, err := c.look(ctx)
	switch {
	case err != nil:
		outcome = unknown
		c.log.Debug("what is held could not be compared with the store", "error", err)
	case len(drifted) > 0:
		outcome = drift
		for part, n := range countParts(drifted) {
			c.metrics.keys.WithLabelValues(part).Add(float64(n))
		}
		c.log.Warn("this synchronizer holds something else than the store: listing again", "keys", len(drifted),
			"first", names(drifted[:min(len(drifted), tellDrifted)]))
		c.store.Doubt()
	}
	c.metrics.comparisons.WithLabelValues(outcome).Inc()
	return outcome
}

// drifted is a key of which the hub holds another revision than the store; 0 is none.
type drifted struct {
	key, part    string
	held, stored int64
}

func countParts(all []drifted) map[string]int {
	out := map[string]int{}
	for _, d := range all {
		out[d.part]++
	}
	return out
}

func names(all []drifted) []string {
	out := make([]string, 0, len(all))
	for _, d := range all {
		out = append(out, d.key)
	}
	return out
}

// look gives the keys that differ. Mostly there are none, which two sums tell; only where these differ
// the keys are gone through, at another revision, one by one.
func (c *comparer) look(ctx context.Context) ([]drifted, error) {
	at := c.hub.standing()
	if at.storeID == "" {
		return nil, nil
	}
	sum := uint64(0)
	if err := c.store.Survey(ctx, at.storeID, at.revision, func(key string, changed int64) { sum += keys.Mark(key, changed) }); err != nil {
		return nil, err
	}
	if sum == at.sum {
		return at.mirrored, nil
	}
	id, revision, held := c.hub.held()
	var out []drifted
	err := c.store.Survey(ctx, id, revision, func(key string, changed int64) {
		if held[key] != changed {
			out = append(out, c.hub.drifted(key, held[key], changed))
		}
		delete(held, key)
	})
	if err != nil {
		return nil, err
	}
	for key, revision := range held {
		out = append(out, c.hub.drifted(key, revision, 0))
	}
	slices.SortFunc(out, func(a, b drifted) int { return strings.Compare(a.key, b.key) })
	return out, nil
}

// What is made of an agent that differs.
const (
	// persist is how long a part must differ, over two reports at least, before it is believed to: a
	// report is made between two messages of the feed, or between what one message changes.
	persist = 4 * time.Second
	// behindFor is how long an agent may take to come to what it was sent, with nothing else under way.
	behindFor = 15 * time.Second
	// An agent that differs again after it was listed again is so the next time after minAgain, then
	// twice as long each time up to maxAgain: what it makes of what it is sent may differ for good.
	minAgain = 30 * time.Second
	maxAgain = time.Hour
)

// revisionPart stands, beside the parts of a digest, for an agent that did not come to the revision
// that it was sent.
const revisionPart = "revision"

// audit is what the comparison of one agent's digests has come to.
type audit struct {
	mu    sync.Mutex           // guards all below: an agent may report on two streams for a moment
	since map[string]time.Time // by part: since when it differs
	sent  int64                // what had been sent, and all of it, at the last report; 0 where it is not known
	at    reported             // the last report
	// listed is when it was listed again last, cured whether it was as it should be since, and again how
	// long after listed it may be listed once more.
	listed time.Time
	cured  bool
	again  time.Duration
}

// settle takes what a comparison said, the parts that differ now, and gives those that have differed for
// long enough, where the agent may be listed again now. Caller holds mu.
func (a *audit) settle(now time.Time, differ []string) []string {
	var out []string
	since := map[string]time.Time{}
	for _, part := range differ {
		began, ok := a.since[part]
		if !ok {
			began = now
		}
		since[part] = began
		enough := persist
		if part == revisionPart {
			enough = behindFor
		}
		if now.Sub(began) >= enough {
			out = append(out, part)
		}
	}
	a.since = since
	if len(differ) == 0 {
		a.again, a.cured = minAgain, true
	}
	switch {
	case len(out) == 0 || !a.listed.IsZero() && now.Sub(a.listed) < a.again:
		return nil
	case a.listed.IsZero() || a.cured:
		a.again = minAgain
	default:
		a.again = min(2*a.again, maxAgain)
	}
	a.listed, a.cured, a.since = now, false, nil
	return out
}

// auditor compares what agents report with what they were sent.
type auditor struct {
	hub     *hub
	log     *slog.Logger
	metrics *driftMetrics
}

// reported is what is compared of a report.
type reported struct {
	agent    mirror.AgentKey
	storeID  string
	revision int64
	digest   map[string]uint64
	says     bool // the agent can say what it holds
}

// check compares one report, and has the agent listed again where it has differed for long enough.
func (c *auditor) check(now time.Time, a *audit, r reported) {
	a.mu.Lock()
	defer a.mu.Unlock()
	differ, known := c.hub.compare(r)
	outcome := "same"
	switch {
	case !known:
		outcome = "unknown"
	case len(differ) > 0:
		outcome = "differs"
	}
	sent, resting := c.hub.sent(r.agent)
	// One that comes on is slow, not lost.
	stands := r.revision == a.at.revision && r.storeID == a.at.storeID
	behind := stands && a.sent > 0 && (r.revision < a.sent || !c.hub.lives(r.storeID))
	if a.sent, a.at = 0, (reported{storeID: r.storeID, revision: r.revision}); resting {
		a.sent = sent
	}
	switch {
	case behind:
		differ, outcome = append(differ, revisionPart), "behind"
	case !known:
		// What differed before may or may not do so still.
		c.metrics.digests.WithLabelValues(outcome).Inc()
		return
	}
	c.metrics.digests.WithLabelValues(outcome).Inc()
	first := a.listed.IsZero() || a.cured
	parts := a.settle(now, differ)
	if len(parts) == 0 {
		return
	}
	for _, p := range parts {
		c.metrics.agents.WithLabelValues(p).Inc()
	}
	c.log.Warn("an agent holds something else than it was sent: it is sent everything again", "cluster", r.agent.Cluster, "node", r.agent.Node,
		"differs", parts, "revision", r.revision, "sent", sent, "though_listed_again", !first, "next_try_after", a.again)
	c.hub.relist(r.agent, parts)
}
