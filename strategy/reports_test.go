package strategy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// What users of other systems reported, as far as a decision alone can tell. Each test is named for
// the report.

// A scale-up from 0 to 1 of 30 must not pull all traffic home when a threshold is set.
func TestCilium46633ScaleUpDoesNotPullAllTrafficHome(t *testing.T) {
	for _, hold := range []time.Duration{0, 30 * time.Second} {
		s := tell(t, 50, hold, hold)
		s.at(0, ids(30, 30, "w1")) // it was fine once
		s.at(1, "w1")              // and scaled down to nothing
		if got := shares(s.at(2, ids(0, 30, "w1"))); got != "* 100%" {
			t.Errorf("hold %v, none of 30 is ready: %s", hold, got)
		}
		got := s.at(3, ids(1, 30, "w1")).Tiers[0].Share
		if want := 100.0 / 15; hold == 0 && (got < want-1e-9 || got > want+1e-9) || hold > 0 && got != 0 {
			t.Errorf("hold %v, one of 30 is ready: %v%% at home", hold, got)
		}
		if got := s.at(200, ids(1, 30, "w1")).Tiers[0].Share; got > 6.7 {
			t.Errorf("hold %v, one of 30 is ready for minutes: %v%% at home", hold, got)
		}
	}
	// Without a threshold the literal reading holds: any available local instance serves.
	if got := shares(mustDecide(t, scene(LocalFirst, ids(1, 30, "w1")))); got != "local 100%" {
		t.Errorf("threshold 0: %s", got)
	}
}

// 33 and 70 are not made 30 or 50, nor is 32.9 % of instances rounded up to 33.
func TestOddPercentagesAreNotTruncated(t *testing.T) {
	for _, c := range []struct {
		threshold        uint32
		available, known int
		want             string
	}{
		{33, 33, 100, "local 100%"},
		{33, 32, 100, "local 97%, * 3%"},
		{33, 329, 1000, "local 99.7%, * 0.3%"},
		{33, 330, 1000, "local 100%"},
		{70, 70, 100, "local 100%"},
		{70, 69, 100, "local 98.6%, * 1.4%"},
		{70, 6, 9, "local 95.2%, * 4.8%"},
		{70, 7, 10, "local 100%"},
		{50, 4999, 10000, "local >99.9%, * <0.1%"},
	} {
		in := scene(LocalFirst, ids(c.available, c.known, "w1"))
		threshold(c.threshold, Spill)(&in)
		if got := shares(mustDecide(t, in)); got != c.want {
			t.Errorf("%d of %d, threshold %d: %s, want %s", c.available, c.known, c.threshold, got, c.want)
		}
	}
}

// A variant in case, an alias that was not parsed and an unknown word are errors that name what was
// meant, never a silent default.
func TestCilium46623WordsAreStrict(t *testing.T) {
	for word, meant := range map[string]string{"Local": "local", "REMOTE": "remote", "local-frist": "local-first"} {
		var bad *InputError
		if _, err := Parse(word); !errors.As(err, &bad) || !strings.Contains(bad.Text, fmt.Sprintf("did you mean %q", meant)) {
			t.Errorf("%q: %v", word, err)
		}
	}
	for alias, want := range map[string]Kind{"local": LocalFirst, "remote": ExternalFirst, "none": Any} {
		if got, err := Parse(alias); got != want || err != nil {
			t.Errorf("%q: %s, %v", alias, got, err)
		}
	}
}

// Both sides external-first for the same service: each side prefers the other's own instances, and
// neither takes what it would have to pass on.
func TestBothSidesExternalFirst(t *testing.T) {
	for _, own := range []string{"east", "west"} {
		in := scene(ExternalFirst, "e1 w1")
		in.Caller.Cluster = own
		d := mustDecide(t, in)
		for c := range d.Tiers[0].Candidates() {
			if c.Instance.Cluster == own {
				t.Errorf("%s: its own %s is external to it", own, c.Instance.Instance)
			}
		}
		if d.Tiers[0].Share != 100 || d.Tiers[1].Name != "local" {
			t.Errorf("%s: %s", own, d.Rule)
		}
	}
}

// A cluster destroyed without deregistering: calls leave it as soon as it is measured, and its
// instances are gone after staleTTL.
func TestIstio35082Submariner821ClusterDestroyed(t *testing.T) {
	in := scene(ExternalFirst, "e1 w1 w2")
	in.Clusters["west"] = ClusterInfo{State: catalog.StateStale, StaleSince: noon.Add(-time.Minute), Unreachable: true}
	d := mustDecide(t, in)
	if got := golden(d); got != "- | e1" || d.Degraded {
		t.Errorf("a minute later: %s", got)
	}
	in.Now = d.Next
	in.Policy.Strategy = ExternalOnly
	if d := mustDecide(t, in); d.Unavailable != NoExternalInstances || !strings.Contains(d.Detail, "2 EXPIRED") {
		t.Errorf("a day later: %s %s", golden(d), d.Detail)
	}
}

// An agent that starts while the synchronizer is down serves what its own cluster has, and calls
// nothing absent.
func TestIstio30838StartWithoutSynchronizer(t *testing.T) {
	in := scene(LocalFirst, "e1", "east")
	in.ClustersKnown, in.PoliciesKnown, in.Advancing = false, false, false
	if got := golden(mustDecide(t, in)); got != "e1" {
		t.Errorf("what is at home: %s", got)
	}
	in.Instances = nil
	if got := golden(mustDecide(t, in)); got != "NOT_SYNCED" {
		t.Errorf("what is not: %s", got)
	}
}

// An address that is known not to answer is in no tier that a retry could come to.
func TestDapr7563DeadAddressIsNotDialled(t *testing.T) {
	d := mustDecide(t, scene(LocalFirst, "e1:HEALTHY! e2 w1"))
	if golden(d) != "e2 | w1" || !slices.Equal(left(d), []string{"e1 UNREACHABLE"}) {
		t.Errorf("%s, left out %v", golden(d), left(d))
	}
}

// One particular external cluster is preferred to the others, which still stand by.
func TestCilium29200PreferOneExternalCluster(t *testing.T) {
	in := scene(LocalFirst, "e1 n1 s1 w1", "east", "west", "south", "north")
	in.Policy.ExternalOrder = [][]string{{"west"}, {"*"}}
	if got := golden(mustDecide(t, in)); got != "e1 | w1 | n1 s1" {
		t.Errorf("%s", got)
	}
	in.Instances = instances("n1 s1 w1:UNHEALTHY")
	if got := mustDecide(t, in); shares(got) != "* 100%" {
		t.Errorf("west is down: %s", shares(got))
	}
}

// "What is the routing actually in use, and why?" has an answer for every instance, every tier and the
// call as a whole.
func TestIstio41104Cilium43681EveryChoiceIsExplained(t *testing.T) {
	for _, rows := range [][]situation{contract, beyond} {
		for _, s := range rows {
			for _, k := range columns {
				d := mustDecide(t, s.input(k))
				if !strings.HasPrefix(d.Rule, string(d.Strategy)+": ") || len(d.Rule) <= len(d.Strategy)+2 {
					t.Errorf("%s, %s: rule %q", s.state, k, d.Rule)
				}
				for _, tier := range d.Tiers {
					if tier.Why == "" {
						t.Errorf("%s, %s: tier %s has no reason", s.state, k, tier.Name)
					}
				}
				for _, l := range d.Left {
					if l.Reason == "" || l.Detail == "" {
						t.Errorf("%s, %s: %s is left out without a word", s.state, k, l.Instance.Instance)
					}
				}
			}
		}
	}
}
