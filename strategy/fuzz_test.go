package strategy

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// reader makes decisions of any bytes; after the last one it gives zeros.
type reader []byte

func (r *reader) next() byte {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return b
}

func (r *reader) of(n int) int { return int(r.next()) % n }

var (
	fuzzClusters = []string{"east", "north", "south", "west"}
	fuzzRegions  = []string{"", "eu", "us"}
	fuzzEntries  = []string{"*", "east", "north", "south", "west", "region=eu", "zone=us", "gpu=yes", "nowhere", "", "a=b=c\n"}
	fuzzTimes    = []time.Duration{0, 1, time.Second, time.Minute, 24 * time.Hour, -time.Second, math.MaxInt64, math.MinInt64}
)

// policy is any policy at all, nonsense included.
func (r *reader) policy() Policy {
	kinds := append([]Kind{""}, columns[:]...)
	p := Policy{
		Strategy: kinds[r.of(len(kinds))],
		Failover: Failover{
			Threshold:    []uint32{0, 1, 33, 50, 70, 100, 101, math.MaxUint32}[r.of(8)],
			MinAvailable: []uint32{0, 1, 2, 3, math.MaxUint32}[r.of(5)],
			Mode:         []FailoverMode{"", Spill, Strict, "nonsense"}[r.of(4)],
		},
		Locality:   []LocalityMode{"", LocalityNone, LocalityPrefer, LocalityStrict, "nonsense"}[r.of(5)],
		RecoverAll: r.next()&1 == 0,
		Failback:   Failback{Hold: fuzzTimes[r.of(len(fuzzTimes))], Ramp: fuzzTimes[r.of(len(fuzzTimes))]},
		StaleTTL:   fuzzTimes[r.of(len(fuzzTimes))],
	}
	for range r.of(4) {
		var pool []string
		for range r.of(4) {
			pool = append(pool, fuzzEntries[r.of(len(fuzzEntries))])
		}
		p.ExternalOrder = append(p.ExternalOrder, pool)
	}
	for range r.of(3) {
		if p.Weights == nil {
			p.Weights = map[string]uint32{}
		}
		p.Weights[fuzzClusters[r.of(4)]] = uint32(r.of(3))
	}
	return p
}

// decode makes any bytes an Input.
func decode(r *reader) Input {
	flags, who := r.next(), r.next()
	kinds := append([]Kind{"", ""}, columns[:]...)
	in := Input{
		Service:       cart,
		Known:         flags&2 != 0,
		ClustersKnown: flags&4 != 0,
		PoliciesKnown: flags&1 == 0,
		Advancing:     flags&16 != 0,
		Override:      kinds[r.of(len(kinds))],
		Caller:        Caller{Cluster: fuzzClusters[who&3], Node: fmt.Sprint("n", who>>2&3), Locality: catalog.Locality{Region: fuzzRegions[who>>4%3], Zone: fuzzRegions[who>>6%3]}},
		Clusters:      map[string]ClusterInfo{},
		Policy:        r.policy(),
		Now:           noon,
	}
	if flags&8 != 0 {
		in.Pin = append(fuzzClusters, "nowhere")[int(flags>>4)%5]
	}
	for range r.of(3) {
		c := Cordon{Cluster: fuzzClusters[r.of(4)], Name: []catalog.Name{{}, cart, {Namespace: "default", Service: "other"}}[r.of(3)], Text: fuzzRegions[r.of(3)]}
		if r.next()&1 == 0 {
			c.Until = noon.Add(fuzzTimes[r.of(6)])
		}
		in.Cordons = append(in.Cordons, c)
	}
	for _, name := range fuzzClusters {
		b, d := r.next(), r.next()
		if b&0x80 != 0 {
			continue
		}
		info := ClusterInfo{
			State:       catalog.ClusterState(b % 6),
			Unreachable: b&0x40 != 0,
			Locality:    catalog.Locality{Region: fuzzRegions[b>>3%3], Zone: fuzzRegions[d%3]},
			Distance:    int(d>>2&3) - 1,
		}
		if d&16 != 0 {
			info.Labels = map[string]string{"gpu": "yes"}
		}
		if d&32 != 0 {
			info.StaleSince = noon.Add(-fuzzTimes[d>>6])
		}
		in.Clusters[name] = info
	}
	for i := 0; len(*r) > 0 && i < 64; i++ {
		a, b := r.next(), r.next()
		c := Candidate{
			Instance: &catalog.Instance{
				ID:       catalog.ID{Cluster: fuzzClusters[a&3], Name: cart, Instance: fmt.Sprintf("%02d", i)},
				Node:     fmt.Sprint("n", a>>2&3),
				Locality: catalog.Locality{Region: fuzzRegions[a>>4%3], Zone: fuzzRegions[a>>6%3]},
				Health:   catalog.Health(b % 6), // one more than there are
				Weight:   uint32(b >> 3 & 3),
			},
			Unreachable: b&0x60 == 0x60,
		}
		if b&0x60 == 0x40 {
			c.Ejected = "failures"
		}
		if b&0x80 != 0 {
			c.Undialable = "nobody"
		}
		in.Instances = append(in.Instances, c)
	}
	return in
}

func seed(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		seed := make([]byte, 30+rnd.IntN(60))
		for i := range seed {
			seed[i] = byte(rnd.Uint32())
		}
		f.Add(seed)
	}
}

func FuzzDecide(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader(data)
		in := decode(&r)
		d, state, err := Decide(in)
		if err != nil {
			var bad *InputError
			if !errors.As(err, &bad) || in.Pin == "" {
				t.Fatalf("error %v without a reason to give one", err)
			}
			return
		}
		checkPartition(t, in, d)
		checkPlaces(t, in, d)
		checkWords(t, in, d)
		checkShares(t, in, d)
		if !d.Next.IsZero() && !d.Next.After(in.Now) {
			t.Fatalf("the next decision is due at %v, which is now or before", d.Next)
		}
		slices.Reverse(in.Instances)
		slices.Reverse(in.Cordons)
		again, stateAgain, err := Decide(in)
		if err != nil || !reflect.DeepEqual(d, again) || !reflect.DeepEqual(state, stateAgain) {
			t.Fatalf("another order gave another decision: %v, then %v (%v)", golden(d), golden(again), err)
		}
		checkNext(t, in, d)
	})
}

// checkNext: until Next the time changes nothing, where nothing is held back.
func checkNext(t *testing.T, in Input, d Decision) {
	t.Helper()
	in.Now = in.Now.Add(1000 * time.Hour)
	if !d.Next.IsZero() {
		in.Now = d.Next.Add(-1)
	}
	if later := mustDecide(t, in); !reflect.DeepEqual(d, later) {
		t.Fatalf("time alone changed %v to %v before %v", golden(d), golden(later), d.Next)
	}
}

// FuzzStory follows one service through changes of health, with the state of each decision handed to
// the next one.
func FuzzStory(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader(data)
		in := decode(&r)
		in.Pin, in.Override = "", ""
		r = reader(data)
		last := map[string]tierState{}
		for range 20 {
			d, state, err := Decide(in)
			if err != nil {
				t.Fatal(err)
			}
			checkShares(t, in, d)
			checkStates(t, last, state.tiers)
			in.Previous, last = state, state.tiers
			step := fuzzTimes[r.of(4)]
			if b := r.next(); b&1 == 0 && d.Next.After(in.Now) {
				in.Now = d.Next
			} else {
				in.Now = in.Now.Add(step)
			}
			for range r.of(3) {
				if len(in.Instances) > 0 {
					at := r.of(len(in.Instances))
					changed := *in.Instances[at].Instance
					changed.Health = catalog.Health(r.of(5))
					in.Instances = slices.Clone(in.Instances)
					in.Instances[at].Instance = &changed
				}
			}
		}
	})
}

// checkStates: no tier is granted more than its capacity, a rise comes from lasting capacity alone, and
// a state holds nothing that is not a number.
func checkStates(t *testing.T, before, after map[string]tierState) {
	t.Helper()
	for key, s := range after {
		if s.line.from > s.line.to+trifle || s.line.to > s.capacity+trifle || s.line.from < 0 || math.IsNaN(s.line.from+s.line.to) {
			t.Fatalf("tier %q: the line goes from %v to %v, the capacity is %v", key, s.line.from, s.line.to, s.capacity)
		}
		if !s.since.IsZero() && (s.lasting > s.capacity+trifle || s.lasting < s.line.to-trifle) {
			t.Fatalf("tier %q: %v has lasted, the line ends at %v and the capacity is %v", key, s.lasting, s.line.to, s.capacity)
		}
		if before[key].once && !s.once {
			t.Fatalf("tier %q: it forgot that it was sufficient", key)
		}
	}
}

// checkPartition: every instance of the input is exactly once in tiers or left out, and no other.
func checkPartition(t *testing.T, in Input, d Decision) {
	t.Helper()
	seen := map[catalog.ID]int{}
	for i := range d.Tiers {
		for c := range d.Tiers[i].Candidates() {
			seen[c.Instance.ID]++
		}
	}
	for _, l := range d.Left {
		seen[l.Instance.ID]++
		if l.Reason == "" || l.Detail == "" {
			t.Fatalf("%s is left out without a word", l.Instance.ID)
		}
	}
	for _, c := range in.Instances {
		if seen[c.Instance.ID] != 1 {
			t.Fatalf("%s is %d times in the decision", c.Instance.ID, seen[c.Instance.ID])
		}
	}
	if len(seen) != len(in.Instances) {
		t.Fatalf("%d instances came out of %d", len(seen), len(in.Instances))
	}
	if !slices.IsSortedFunc(d.Left, func(a, b LeftOut) int { return a.Instance.ID.Compare(b.Instance.ID) }) {
		t.Fatal("what is left out is not in identity order")
	}
}

// gone says whether a cluster is out of everybody's choice, by rules written anew.
func gone(in Input, name string) bool {
	info := in.Clusters[name]
	if w, ok := in.Policy.Weights[name]; ok && w == 0 || info.State == catalog.StateRemoved {
		return true
	}
	for _, c := range in.Cordons {
		if c.Cluster == name && (c.Name == cart || c.Name == catalog.Name{}) && (c.Until.IsZero() || c.Until.After(in.Now)) {
			return true
		}
	}
	if name == in.Caller.Cluster {
		return false
	}
	silent := !info.StaleSince.IsZero() && in.Policy.StaleTTL > 0 && in.Advancing && !in.Now.Before(info.StaleSince.Add(in.Policy.StaleTTL))
	return info.State == catalog.StateExpired || silent
}

// named says whether the order of the policy takes an external cluster.
func named(in Input, name string) bool {
	info := in.Clusters[name]
	for _, pool := range in.Policy.ExternalOrder {
		for _, e := range pool {
			if e == name || e == "*" || e == "region="+info.Locality.Region && e != "region=" ||
				e == "zone="+info.Locality.Zone && e != "zone=" || e == "gpu=yes" && info.Labels["gpu"] == "yes" {
				return true
			}
		}
	}
	return len(in.Policy.ExternalOrder) == 0
}

// checkPlaces: what is in a tier may be there.
func checkPlaces(t *testing.T, in Input, d Decision) {
	t.Helper()
	asked := in.Policy.Strategy
	if in.Override != "" {
		asked = in.Override
	}
	for n := range d.Tiers {
		tier := &d.Tiers[n]
		for c := range tier.Candidates() {
			i, cl := c.Instance, in.Clusters[c.Instance.Cluster]
			local := i.Cluster == in.Caller.Cluster
			switch {
			case c.Undialable != "", i.Weight == 0, i.Health == catalog.Draining, i.Health == catalog.Disabled, gone(in, i.Cluster):
				t.Fatalf("%s must never be in a tier", i)
			case !slices.Contains(tier.Clusters, i.Cluster):
				t.Fatalf("%s is not of tier %v", i, tier.Clusters)
			case in.Pin != "" && i.Cluster != in.Pin:
				t.Fatalf("%s although pinned to %s", i, in.Pin)
			case !local && !in.PoliciesKnown:
				t.Fatalf("%s although no policy is known", i)
			case d.Strategy == LocalOnly && !local, d.Strategy == ExternalOnly && local:
				t.Fatalf("%s leaked through %s", i, d.Strategy)
			case in.Pin == "" && (asked == LocalOnly && !local || asked == ExternalOnly && local):
				t.Fatalf("%s leaked through %s", i, asked)
			case in.Pin == "" && !local && !named(in, i.Cluster):
				t.Fatalf("%s although externalOrder does not name its cluster", i)
			case !d.RecoverAll && (!i.Health.Serving() || c.Ejected != "" && d.Strategy != Broadcast || c.Unreachable || cl.Unreachable):
				t.Fatalf("%s without recover-all", i)
			case d.Strategy == Broadcast && cl.Unreachable:
				t.Fatalf("%s would be dialled by a broadcast", i)
			case local && in.Policy.Locality == LocalityStrict && d.Strategy != Any && in.Caller.Locality.Zone != "" &&
				i.Locality.Zone != in.Caller.Locality.Zone && i.Node != in.Caller.Node:
				t.Fatalf("%s is not in zone %s", i, in.Caller.Locality.Zone)
			}
		}
	}
}

// checkShares: the shares make all calls, and none is above what its tier is fit for while the tiers
// together are fit for all.
func checkShares(t *testing.T, in Input, d Decision) {
	t.Helper()
	if d.Strategy == Broadcast {
		return
	}
	sum, fit := 0.0, 0.0
	for _, tier := range d.Tiers {
		if tier.Share < 0 || tier.Share > 100 || math.IsNaN(tier.Share) {
			t.Fatalf("tier %s: share %v", tier.Name, tier.Share)
		}
		sum += tier.Share
		fit += fitFor(in, tier)
	}
	if math.Abs(sum-100) > 1e-9 && sum != 0 || (sum == 0) != (d.Unavailable != "") {
		t.Fatalf("shares make %v, unavailable %q", sum, d.Unavailable)
	}
	for _, tier := range d.Tiers {
		if fit >= 100 && tier.Share > fitFor(in, tier)+1e-9 {
			t.Fatalf("tier %s is fit for %v and gets %v", tier.Name, fitFor(in, tier), tier.Share)
		}
	}
}

// fitFor is the capacity of a tier, written anew.
func fitFor(in Input, tier Tier) float64 {
	f := in.Policy.Failover
	if tier.Available == 0 || tier.Available < int(f.MinAvailable) {
		return 0
	}
	fit := 100.0
	if f.Threshold > 0 {
		fit = min(100, float64(tier.Available)/float64(tier.Known)/float64(f.Threshold)*100*100)
	}
	if f.Mode == Strict && uint64(tier.Available)*100 < uint64(tier.Known)*uint64(f.Threshold) {
		return 0
	}
	return fit
}

// checkWords: shares, failures and reasons agree with the tiers, and the lines are lines.
func checkWords(t *testing.T, in Input, d Decision) {
	t.Helper()
	targets, filled := 0, 0
	for _, tier := range d.Tiers {
		if len(tier.Groups) > 0 {
			filled++
		}
		if (tier.Share > 0) && len(tier.Groups) == 0 || tier.Failure != "" && len(tier.Groups) > 0 {
			t.Fatalf("tier %s: share %v, failure %q, %d groups", tier.Name, tier.Share, tier.Failure, len(tier.Groups))
		}
		if tier.Share > 0 || tier.Failure != "" {
			targets++
		}
		if tier.Available > tier.Known || tier.Why == "" {
			t.Fatalf("tier %s: %d of %d available (%s)", tier.Name, tier.Available, tier.Known, tier.Why)
		}
	}
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	switch {
	case (d.Unavailable == "") != (targets > 0), (d.Unavailable == "") != (d.Detail == ""):
		t.Fatalf("%d tiers in use, unavailable %q %q", targets, d.Unavailable, d.Detail)
	case d.Strategy == Broadcast && targets != len(d.Tiers):
		t.Fatalf("%s: %d of %d tiers are used at once", d.Strategy, targets, len(d.Tiers))
	case d.RecoverAll && (d.Strategy != Broadcast && filled != 1 || !in.Policy.RecoverAll):
		t.Fatalf("recover-all in %d tiers", filled)
	case d.Unavailable == NotFound && (in.Known || len(in.Instances) > 0 || !in.ClustersKnown || !in.PoliciesKnown):
		t.Fatal("NOT_FOUND of a service that is known, or could be")
	case d.Rule == "" || len(d.Rule) > 200 || strings.ContainsFunc(d.Rule, unprintable):
		t.Fatalf("the rule is no line: %q", d.Rule)
	}
}
