package strategy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
)

// decode makes any bytes an Input: a few that set the scene, then two for each instance.
func decode(data []byte) Input {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return b
	}
	names := []string{"east", "north", "south", "west"}
	regions := []string{"", "eu", "us"}
	kinds := append([]Kind{""}, columns[:]...)
	flags, who := next(), next()
	in := Input{
		Service:       cart,
		Strategy:      kinds[int(next())%len(kinds)],
		Inherited:     flags&1 != 0,
		Known:         flags&2 != 0,
		ClustersKnown: flags&4 != 0,
		Caller:        Caller{Cluster: names[who&3], Node: fmt.Sprint("n", who>>2&3), Locality: catalog.Locality{Region: regions[who>>4%3]}},
		Clusters:      map[string]ClusterInfo{},
	}
	if flags&8 != 0 {
		in.Pin = append(names, "nowhere")[int(flags>>4)%5]
	}
	for _, name := range names {
		b := next()
		if b&0x80 == 0 {
			in.Clusters[name] = ClusterInfo{
				State:       catalog.ClusterState(b % 6),
				Unreachable: b&0x40 != 0,
				Locality:    catalog.Locality{Region: regions[b>>3%3]},
			}
		}
	}
	for i := 0; len(data) > 0 && i < 64; i++ {
		a, b := next(), next()
		c := Candidate{
			Instance: &catalog.Instance{
				ID:       catalog.ID{Cluster: names[a&3], Name: cart, Instance: fmt.Sprintf("%02d", i)},
				Node:     fmt.Sprint("n", a>>2&3),
				Locality: catalog.Locality{Region: regions[a>>4%3], Zone: fmt.Sprint(a >> 6)},
				Health:   catalog.Health(b % 6), // one more than there are
				Weight:   uint32(b >> 3 & 3),
			},
			Ejected: b&0x40 != 0,
		}
		if b&0x80 != 0 {
			c.Undialable = "nobody"
		}
		in.Instances = append(in.Instances, c)
	}
	return in
}

func FuzzDecide(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		seed := make([]byte, 7+rnd.IntN(40))
		for i := range seed {
			seed[i] = byte(rnd.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := decode(data)
		d, err := Decide(in)
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
		slices.Reverse(in.Instances)
		if again, err := Decide(in); err != nil || !reflect.DeepEqual(d, again) {
			t.Fatalf("another order gave another decision: %v, then %v (%v)", golden(d), golden(again), err)
		}
	})
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
}

// checkPlaces: what is in a tier may be there.
func checkPlaces(t *testing.T, in Input, d Decision) {
	t.Helper()
	for i := range d.Tiers {
		tier := &d.Tiers[i]
		for c := range tier.Candidates() {
			i, cl := c.Instance, in.Clusters[c.Instance.Cluster]
			local := i.Cluster == in.Caller.Cluster
			switch {
			case c.Undialable != "", i.Weight == 0, i.Health == catalog.Draining, i.Health == catalog.Disabled,
				cl.State == catalog.StateExpired, cl.State == catalog.StateRemoved:
				t.Fatalf("%s must never be in a tier", i)
			case !slices.Contains(tier.Clusters, i.Cluster):
				t.Fatalf("%s is not of tier %v", i, tier.Clusters)
			case in.Pin != "" && i.Cluster != in.Pin:
				t.Fatalf("%s although pinned to %s", i, in.Pin)
			case d.Strategy == LocalOnly && !local, d.Strategy == ExternalOnly && local:
				t.Fatalf("%s leaked through %s", i, d.Strategy)
			case in.Pin == "" && (in.Strategy == LocalOnly && !local || in.Strategy == ExternalOnly && local):
				t.Fatalf("%s leaked through %s", i, in.Strategy)
			case !d.RecoverAll && (!i.Health.Serving() || c.Ejected || cl.Unreachable):
				t.Fatalf("%s without recover-all", i)
			case d.Strategy == Broadcast && cl.Unreachable:
				t.Fatalf("%s would be dialled by a broadcast", i)
			}
		}
	}
}

// checkWords: shares, failures and reasons agree with the tiers.
func checkWords(t *testing.T, in Input, d Decision) {
	t.Helper()
	targets, serving, filled := 0, 0, 0
	for _, tier := range d.Tiers {
		if tier.Share > 0 {
			serving++
		}
		if len(tier.Groups) > 0 {
			filled++
		}
		if (tier.Share > 0) && len(tier.Groups) == 0 || tier.Failure != "" && len(tier.Groups) > 0 {
			t.Fatalf("tier %s: share %v, failure %q, %d groups", tier.Name, tier.Share, tier.Failure, len(tier.Groups))
		}
		if tier.Share > 0 || tier.Failure != "" {
			targets++
		}
		if tier.Available > tier.Known {
			t.Fatalf("tier %s: %d of %d available", tier.Name, tier.Available, tier.Known)
		}
	}
	switch {
	case (d.Unavailable == "") != (targets > 0), (d.Unavailable == "") != (d.Detail == ""):
		t.Fatalf("%d tiers in use, unavailable %q %q", targets, d.Unavailable, d.Detail)
	case d.Strategy != Broadcast && serving > 1, d.Strategy == Broadcast && targets != len(d.Tiers):
		t.Fatalf("%s: %d of %d tiers are used at once", d.Strategy, serving, len(d.Tiers))
	case d.RecoverAll && d.Strategy != Broadcast && filled != 1:
		t.Fatalf("recover-all in %d tiers", filled)
	case d.Unavailable == NotFound && (in.Known || len(in.Instances) > 0 || !in.ClustersKnown):
		t.Fatal("NOT_FOUND of a service that is known, or could be")
	}
}
