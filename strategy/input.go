package strategy

import (
	"iter"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// Input is all that a decision depends on. Decide only reads it.
type Input struct {
	Service catalog.Name
	Caller  Caller
	// Policy is what is in force for this service and the caller's cluster.
	Policy Policy
	// Override is the strategy that the call itself names; empty: Policy.Strategy. A pin is an
	// override as well, and stronger than Policy.Strategy; a call that contradicts itself (Override
	// and Pin) is an error. That overrides are denied is for the caller of Decide to enforce.
	Override Kind
	// Pin limits the decision to one cluster, the caller's own allowed; empty means no pin.
	Pin string
	// Instances of Service, merged, no identity twice, none nil. In identity order a decision
	// costs O(n), else O(n log n).
	Instances []Candidate
	// Known says that at least one cluster lists the service, be it without any instance.
	// Instances imply it.
	Known bool
	// Clusters are the members of the federation, the caller's own included; one that is missing
	// here counts as never synced. The map may be shared by the inputs of all services.
	Clusters map[string]ClusterInfo
	// ClustersKnown says that Clusters is the whole federation: the agent has once read the list
	// of members, be it from a saved view. Until then nothing is called absent.
	ClustersKnown bool
	// PoliciesKnown says that the policies were read once, be it from a saved view. Until then calls
	// stay local, whatever they ask for: a policy that nobody has read yet may say so.
	PoliciesKnown bool
	// Cordons in force or expired; those of other services are left out, or ignored.
	Cordons []Cordon
	// Advancing says that the feed is live and brings news of some cluster: only then does silence
	// about another one expire it.
	Advancing bool
	// Now is the time that holds, ramps, cordons and expiry are reckoned with.
	Now time.Time
	// Previous is what the decision before gave for the same service, policy and override; the zero
	// value where there was none. It is not changed.
	Previous State
}

// Cordon takes a cluster (Name is zero) or one service of it out of everybody's choice.
type Cordon struct {
	Cluster string
	Name    catalog.Name
	// Until is when it ends by itself; zero: never.
	Until time.Time
	// Text says for people who set it, and why.
	Text string
}

// State is what one decision hands to the next: since when tiers are sufficient, and how far calls
// have come back to them. The zero value knows nothing. It is immutable.
type State struct {
	tiers map[string]tierState
}

// Caller says from where is called. Cluster and Node also name the agent whose order of equal
// clusters is given; Node is empty for a caller anywhere in the cluster.
type Caller struct {
	Cluster  string
	Node     string
	Locality catalog.Locality
}

// ClusterInfo is what is known of one cluster.
type ClusterInfo struct {
	State catalog.ClusterState
	// Unreachable was measured by calls. A cluster that is merely STALE is not unreachable.
	Unreachable bool
	Locality    catalog.Locality
	// Labels are its properties beside the locality, for ExternalOrder.
	Labels map[string]string
	// Distance is a coarse class of the round-trip time to it, 0 the nearest. Clusters of equal
	// Distance pool where "*" is expanded.
	Distance int
	// StaleSince is when it was last confirmed, where it is stale; zero where it is fresh, or where
	// nobody knows.
	StaleSince time.Time
}

// Candidate is an instance and how the agent would get to it.
type Candidate struct {
	Instance *catalog.Instance
	// Dial is the host:port to dial, or empty where this agent delivers itself.
	Dial string
	// Undialable says in words why nobody can be dialled for it; empty where somebody can.
	Undialable string
	// Unreachable says that its relay was measured not to answer, while others of its cluster do.
	Unreachable bool
	// Ejected says in words why this agent set it aside after failures; empty where it did not.
	Ejected string
}

// Decision is where calls may go. It is immutable and shares the Input's instances.
type Decision struct {
	// Strategy is the one that was followed.
	Strategy Kind
	// Tiers, best first. A call goes to one that is drawn by Share, a retry on to the others; only
	// with Broadcast each tier is one cluster and all take part.
	Tiers []Tier
	// Left holds every instance that is in no tier, in identity order.
	Left []LeftOut
	// Unavailable is empty where somebody can be picked or a broadcast has a target, else why
	// not, with Detail in words.
	Unavailable Reason
	Detail      string
	// RecoverAll says that no instance is available and those in Tiers are a last resort.
	RecoverAll bool
	// Degraded says that a tier better than the one in use lost instances of this service
	// because their cluster is EXPIRED.
	Degraded bool
	// Next is when the same Input decides otherwise for the time alone (a hold ends, a ramp has come
	// further, a cordon ends, a cluster expires); zero: never.
	Next time.Time
	// Rule is the decision in one line, for the header farcall-reason, traces and explain.
	Rule string
}

// Tier is a set of clusters that are tried together.
type Tier struct {
	// Name is for people, in printable ASCII: "local", "any", a pool of the external order as it is
	// stated ("west, us-1", "region=eu"), "*" for all the other clusters or, where these are several
	// tiers, "* (region eu)" and "* (distance 2)". The pinned cluster of a call, and each target of
	// a broadcast that is not local, is named as it is.
	Name string
	// Clusters that belong to it, with or without instances: the caller's own first, then the
	// others as ExternalOrder has them, equal ones in an order that differs from agent to agent.
	Clusters []string
	// Groups of candidates, nearest first, none of them empty. The balancer chooses within the
	// first that has one left; only the caller's own cluster has more than one.
	Groups [][]Candidate
	// Available counts those that a call could be sent to now, Known all that are eligible and
	// not draining, healthy or not.
	Available, Known int
	// Share is the percentage of calls that are sent to it first. All shares make 100, or 0 where
	// nobody serves; in a broadcast each target that is dialled has 100. Why says in words where it
	// comes from.
	Share float64
	Why   string
	// Failure is Unreachable for a target of a broadcast that is not dialled but reported as
	// failed; otherwise empty.
	Failure Reason
}

// Candidates gives all of a tier, nearest group first.
func (t *Tier) Candidates() iter.Seq[Candidate] {
	return func(yield func(Candidate) bool) {
		for _, g := range t.Groups {
			for _, c := range g {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// LeftOut is an instance in no tier, with the first rule that removed it.
type LeftOut struct {
	Candidate
	Reason Reason
	Detail string // a sentence
}
