package strategy

import (
	"fmt"
	"math"
	"math/big"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
)

// some makes instances of a cluster of which some are available.
func some(letter string, available, known int) string {
	return fmt.Sprintf("%s*%d %s*%d:UNHEALTHY ", letter, available, letter, known-available)
}

// worked are the examples of docs/strategies.md: three tiers, each with so many available of so many
// known.
var worked = []struct {
	local, west, south [2]int
	threshold, min     uint32
	mode               FailoverMode
	want               string
}{
	{local: [2]int{1, 10}, west: [2]int{10, 10}, south: [2]int{10, 10}, want: "local 100%"},
	{local: [2]int{0, 10}, west: [2]int{10, 10}, south: [2]int{10, 10}, want: "west 100%"},
	{local: [2]int{5, 10}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 50, want: "local 100%"},
	{local: [2]int{3, 10}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 50, want: "local 60%, west 40%"},
	{local: [2]int{3, 10}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 50, mode: Strict, want: "west 100%"},
	{local: [2]int{3, 10}, west: [2]int{1, 10}, south: [2]int{10, 10}, threshold: 50, want: "local 60%, west 20%, south 20%"},
	{local: [2]int{3, 10}, west: [2]int{1, 10}, south: [2]int{0, 10}, threshold: 50, want: "local 75%, west 25%"},
	{local: [2]int{3, 10}, west: [2]int{1, 10}, south: [2]int{0, 10}, threshold: 50, mode: Strict, want: "local 100%"},
	{local: [2]int{3, 10}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 50, min: 4, want: "west 100%"},
	{local: [2]int{3, 10}, west: [2]int{3, 10}, south: [2]int{3, 10}, min: 4, want: "local 100%"},
	{local: [2]int{33, 100}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 33, want: "local 100%"},
	{local: [2]int{1, 3}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 33, want: "local 100%"},
	{local: [2]int{1, 3}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 34, want: "local 98%, west 2%"},
	{local: [2]int{2, 3}, west: [2]int{10, 10}, south: [2]int{10, 10}, threshold: 70, want: "local 95.2%, west 4.8%"},
	{local: [2]int{1, 7}, west: [2]int{1, 7}, south: [2]int{1, 7}, threshold: 70, want: "local 33.3%, west 33.3%, south 33.3%"},
}

func TestWorkedShares(t *testing.T) {
	for _, c := range worked {
		in := scene(LocalFirst, some("e", c.local[0], c.local[1])+some("w", c.west[0], c.west[1])+some("s", c.south[0], c.south[1]), "east", "west", "south")
		in.Policy.ExternalOrder = [][]string{{"west"}, {"south"}}
		in.Policy.Failover = Failover{Threshold: c.threshold, MinAvailable: c.min, Mode: c.mode}
		d := mustDecide(t, in)
		if got := shares(d); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// Of every tier size up to 12 the share is what exact arithmetic says, and sufficiency turns at
// exactly the threshold: no percentage is cut.
func TestSharesAreExact(t *testing.T) {
	for _, percent := range []uint32{1, 33, 50, 67, 70, 99, 100} {
		for known := 1; known <= 12; known++ {
			for available := 0; available <= known; available++ {
				in := scene(LocalFirst, some("e", available, known)+"w1")
				threshold(percent, Spill)(&in)
				d := mustDecide(t, in)
				want := big.NewRat(int64(available)*100*100, int64(known)*int64(percent))
				if want.Cmp(big.NewRat(100, 1)) > 0 {
					want.SetInt64(100)
				}
				exact, _ := want.Float64()
				if got := d.Tiers[0].Share; math.Abs(got-exact) > 1e-12 {
					t.Errorf("%d of %d, threshold %d: %v, want %v", available, known, percent, got, exact)
				}
				if sum := d.Tiers[0].Share + d.Tiers[1].Share; math.Abs(sum-100) > 1e-12 {
					t.Errorf("%d of %d, threshold %d: shares make %v", available, known, percent, sum)
				}
				threshold(percent, Strict)(&in)
				home := mustDecide(t, in).Tiers[0].Share == 100
				if home != (want.Cmp(big.NewRat(100, 1)) == 0) {
					t.Errorf("%d of %d, threshold %d strict: at home %v", available, known, percent, home)
				}
			}
		}
	}
}

// What counts as known, and what as available, decides the percentage.
func TestKnownAndAvailable(t *testing.T) {
	for _, c := range []struct {
		name             string
		instances        string
		available, known int
	}{
		{"unhealthy ones are known", "e1 e2:UNHEALTHY", 1, 2},
		{"draining ones are not", "e1 e2:DRAINING e3:DRAINING", 1, 1},
		{"disabled ones are not", "e1 e2:DISABLED", 1, 1},
		{"without weight they are not", "e1 e2:HEALTHY0", 1, 1},
		{"ejected ones are known", "e1 e2:HEALTHYx", 1, 2},
		{"undialable ones are known", "e1 e2:HEALTHY?", 1, 2},
		{"unreachable ones are known", "e1 e2:HEALTHY!", 1, 2},
		{"unknown health is available", "e1 e2:UNKNOWN", 2, 2},
	} {
		d := mustDecide(t, scene(LocalFirst, c.instances))
		if got := d.Tiers[0]; got.Available != c.available || got.Known != c.known {
			t.Errorf("%s: %d of %d, want %d of %d", c.name, got.Available, got.Known, c.available, c.known)
		}
	}
	in := scene(LocalFirst, "w1 w2:UNHEALTHY s1")
	in.Clusters = map[string]ClusterInfo{"east": {}, "west": cutOff(catalog.StateSynced), "south": in.Clusters["west"]}
	d := mustDecide(t, in)
	if got := d.Tiers[1]; got.Available != 1 || got.Known != 3 || golden(d) != "- | s1" {
		t.Errorf("an unreachable cluster's are known: %d of %d, %s", got.Available, got.Known, golden(d))
	}
}

// A cluster that is measured unreachable makes its tier insufficient at once, whatever is held.
func TestUnreachableMovesAtOnce(t *testing.T) {
	in := scene(ExternalFirst, "e1 w1")
	in.Policy.Failback = Failback{Hold: DefaultFailback, Ramp: DefaultFailback}
	_, in.Previous, _ = Decide(in)
	in.Clusters = with("west", cutOff(catalog.StateStale))
	in.Now = noon.Add(1)
	if got := shares(mustDecide(t, in)); got != "local 100%" {
		t.Errorf("%s", got)
	}
}
