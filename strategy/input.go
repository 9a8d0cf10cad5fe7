package strategy

import (
	"iter"

	"github.com/farcall/farcall/internal/catalog"
)

// Input is all that a decision depends on. Decide only reads it.
type Input struct {
	Service catalog.Name
	Caller  Caller
	// Strategy is what is in force; empty means Default.
	Strategy Kind
	// Inherited says that Strategy comes from configuration and not from the call that pins. A
	// pin is an override and stronger than what was inherited; a call that contradicts itself is
	// an error.
	Inherited bool
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
}

// Candidate is an instance and how the agent would get to it.
type Candidate struct {
	Instance *catalog.Instance
	// Dial is the host:port to dial, or empty where this agent delivers itself.
	Dial string
	// Undialable says in words why nobody can be dialled for it; empty where somebody can.
	Undialable string
	// Ejected says that this agent set it aside after failures.
	Ejected bool
}

// Decision is where calls may go. It is immutable and shares the Input's instances.
type Decision struct {
	// Strategy is the one that was followed.
	Strategy Kind
	// Tiers, best first. A call goes to the first that has a candidate left, a retry on to the
	// next; only with Broadcast each tier is one cluster and all take part.
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
}

// Tier is a set of clusters that are tried together.
type Tier struct {
	// Name is for people: "local", "*" for all the other clusters, "* (region eu)" for those in the
	// caller's region, "any", or a cluster's name.
	Name string
	// Clusters that belong to it, with or without instances: the caller's own first, then those
	// in its region, equal ones in an order that differs from agent to agent.
	Clusters []string
	// Groups of candidates, nearest first, none of them empty. The balancer chooses within the
	// first that has one left; only the caller's own cluster has more than one.
	Groups [][]Candidate
	// Available counts those that a call could be sent to now, Known all that are eligible and
	// not draining, healthy or not.
	Available, Known int
	// Share is the percentage of calls that are sent to it first.
	Share float64
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
