package relay

import (
	"context"
	"time"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/internal/catalog"
)

// Broadcast is the strategy that is delivered to several instances, as a Choice spells it.
const Broadcast = "broadcast"

// Query is what a caller asks for. Strategy and Cluster are the per-call override and pin, as
// the caller wrote them; empty where it wrote none.
type Query struct {
	Name     catalog.Name
	Strategy string
	Cluster  string
	// Header gives the first value of one of the call's headers, "" where it has none; nil for a
	// call without headers. It is called before Route returns only.
	Header func(name string) string
}

// A Router turns a query into a choice of instances. It may wait for a view that is on its way,
// no longer than ctx. An error is an *invoke.Error: InvalidArgument for a strategy or cluster
// that is not, PermissionDenied for a denied override, NotFound, or Unavailable with a reason.
// Beside an error that says that nobody can be called, a Choice tells the strategy and the rule.
// It is safe for concurrent use.
type Router interface {
	Route(ctx context.Context, q Query) (Choice, error)
}

// A Choice belongs to one call and is used by one goroutine at a time.
type Choice interface {
	// Strategy is the one in use, in its canonical spelling.
	Strategy() string
	// Terms say how the call is made; they are those of the moment of Route.
	Terms() *Terms
	// Next picks an instance, never one that this Choice gave before; false when there is none
	// left. It does not block.
	Next() (Target, bool)
	// Clusters is asked for, once, where Strategy is broadcast, which then uses these choices,
	// local first, and never Next.
	Clusters() []ClusterChoice
}

// Terms are what the policy in force says of how a call is made. They are shared and not changed.
type Terms struct {
	// Rule is one line that says which rule decided, for headers, logs and traces.
	Rule string
	// Attempts, the first included, are at least 1.
	Attempts int
	// Idempotent are HTTP methods that may be repeated beside GET, HEAD and OPTIONS.
	Idempotent []string
	// MinSuccess is how many targets of a broadcast must succeed; 0 means all.
	MinSuccess int
	// TargetTimeout bounds the part of each target of a broadcast, beside the call's own deadline,
	// which alone does where this is 0.
	TargetTimeout time.Duration
	// MaxParallel, at least 1, bounds how many targets of a broadcast are called at the same time.
	MaxParallel int
}

// ClusterChoice is one cluster's part in a broadcast. Choice is not used where Unreachable.
type ClusterChoice struct {
	Cluster     string
	Unreachable bool
	Choice      Choice
}

// Target is one picked instance.
type Target struct {
	Instance *catalog.Instance
	// Local says that the instance is this node's own: it is delivered to at App; else Dial is
	// the host:port where CallLocal is served for it.
	Local bool
	App   app.Endpoint
	Dial  string
	// Who is wanted at Dial, where the agent has an identity.
	Who conns.Who
	// Tier counts from 0, the best; TierName is its name for people.
	Tier     int
	TierName string
	// Done, where not nil, is called exactly once, when nothing more will come from or go to the
	// instance for this call; latency is the time until its answer began.
	Done func(o Outcome, latency time.Duration)
}

// Outcome says what one attempt tells of an instance.
type Outcome uint8

// The outcomes. Served, Abandoned and Draining say nothing against the instance.
const (
	Served      Outcome = iota // it answered
	ServedError                // it answered with a server error of its own
	NotExecuted                // no connection could be had
	Refused                    // its agent, or its application's port, said that it does not take it
	Lost                       // contact was lost: outcome unknown
	Abandoned                  // the caller went away
	Draining                   // its agent takes no new calls, as it is about to end
	Late                       // the call's deadline passed: outcome unknown
)

var outcomeWords = [...]string{"served", "served_error", "not_executed", "refused", "lost", "abandoned", "draining", "late"}

// String gives the word as it stands in metrics.
func (o Outcome) String() string { return outcomeWords[o] }
