package strategy

import "time"

// Policy is all that is in force for the calls of one service from one cluster: every setting,
// whoever stated it. Its words are valid and its numbers in range; whoever reads them from text
// sees to that (Check). It is not changed once it is handed out.
type Policy struct {
	Strategy Kind
	// OverrideDenied says that a call may neither name a strategy nor pin a cluster.
	OverrideDenied bool
	// ExternalOrder are the pools of external clusters, best first; empty means [["*"]]. Each
	// entry is a cluster's name, a property (region=eu, zone=eu-1, or a label of the cluster), or
	// "*" for all clusters that no other entry takes.
	ExternalOrder [][]string
	Failover      Failover
	Balancer      Balancer
	Locality      LocalityMode
	// Weights scale the instances of a cluster; one that is not named has 1.
	Weights  map[string]uint32
	Failback Failback
	// RecoverAll uses instances that are unhealthy or ejected where none is available.
	RecoverAll bool
	Retry      Retry
	Broadcast  BroadcastTerms
	// StaleTTL is how long a cluster may be stale before it counts as EXPIRED; 0 for ever.
	StaleTTL time.Duration
	// WarmUp is how long an instance that is new takes to come to its full weight; 0 not at all.
	WarmUp time.Duration
	// HashHeader names the request header whose value decides where RingHash sends a call.
	HashHeader string
}

// Failover says when a tier is sufficient, and what becomes of the calls where it is not.
type Failover struct {
	// Threshold is in percent, 0 to 100: of the known instances of a tier that many must be
	// available. 0 is the literal reading: any available one serves.
	Threshold uint32
	// MinAvailable instances, at least 1, must be available.
	MinAvailable uint32
	Mode         FailoverMode
}

// Failback says how calls come back to a tier that they left: it must have been sufficient for
// Hold, and then its part grows linearly over Ramp. Leaving is immediate.
type Failback struct {
	Hold, Ramp time.Duration
}

// Retry bounds the attempts of one call.
type Retry struct {
	// Attempts, the first included, are at least 1.
	Attempts uint32
	// Idempotent are HTTP methods that may be repeated beside GET, HEAD and OPTIONS.
	Idempotent []string
}

// BroadcastTerms say how a broadcast is delivered.
type BroadcastTerms struct {
	// MinSuccess is how many targets must succeed; 0 means all.
	MinSuccess    uint32
	TargetTimeout time.Duration
	MaxParallel   uint32
}

// FailoverMode is what becomes of the calls of a tier that is not sufficient.
type FailoverMode string

// The modes.
const (
	// Spill sends available/known ÷ threshold of the calls to the tier and the rest on.
	Spill FailoverMode = "spill"
	// Strict moves all of them.
	Strict FailoverMode = "strict"
)

// LocalityMode is what nearness to the caller counts in the tier of the caller's own cluster.
type LocalityMode string

// The modes.
const (
	// LocalityNone chooses among all instances alike.
	LocalityNone LocalityMode = "none"
	// LocalityPrefer takes those on the same node, else in the same zone, else in the same region.
	LocalityPrefer LocalityMode = "prefer"
	// LocalityStrict uses those in the caller's zone only, or, where the caller's zone is not
	// known, in its region.
	LocalityStrict LocalityMode = "strict"
)

// Balancer is how an instance is chosen within a tier.
type Balancer string

// The balancers; agent/pick says how each works.
const (
	LeastRequest Balancer = "least-request"
	RoundRobin   Balancer = "round-robin"
	Random       Balancer = "random"
	Weighted     Balancer = "weighted"
	RingHash     Balancer = "ring-hash"
)

// Defaults are the settings where nobody stated any. The caller may change what it is given.
func Defaults() Policy {
	return Policy{
		Strategy:   Default,
		Failover:   Failover{MinAvailable: 1, Mode: Spill},
		Balancer:   LeastRequest,
		Locality:   LocalityPrefer,
		RecoverAll: true,
		Retry:      Retry{Attempts: 3},
		Broadcast:  BroadcastTerms{TargetTimeout: 10 * time.Second, MaxParallel: 16},
		StaleTTL:   24 * time.Hour,
	}
}

// DefaultFailback is the hold and the ramp, each, where a threshold is set and nobody stated them.
const DefaultFailback = 30 * time.Second
