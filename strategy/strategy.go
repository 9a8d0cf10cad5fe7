// Package strategy decides where calls of a service may go: it turns what is known of the
// service into tiers, best first, and names for every other instance the first rule that left
// it out. The picker, the relay and explain all use that one result.
//
// It is not a balancer: it orders and filters, and picks nobody. It does no I/O, reads no clock,
// keeps nothing between two decisions and runs no goroutines.
package strategy

import (
	"fmt"
	"strings"

	"github.com/farcall/farcall/internal/nearest"
)

// Kind is a cluster strategy in its canonical spelling. The zero value stands for Default.
type Kind string

// The strategies. Each comment says where calls go, best first.
const (
	LocalFirst    Kind = "local-first"    // the caller's own cluster, then the others
	ExternalFirst Kind = "external-first" // the others, then the caller's own cluster
	Broadcast     Kind = "broadcast"      // every cluster at once, one instance of each
	LocalOnly     Kind = "local-only"     // the caller's own cluster and never another
	ExternalOnly  Kind = "external-only"  // the others and never the caller's own cluster
	Any           Kind = "any"            // all instances of all clusters in one pool

	// Default is what holds where nobody chose a strategy.
	Default = LocalFirst
)

var kinds = [...]Kind{LocalFirst, ExternalFirst, Broadcast, LocalOnly, ExternalOnly, Any}

// Cilium's words for service affinity (local, remote, none) are accepted so that its users need
// not translate; active-active is what some other systems call any.
var aliases = [...]struct {
	word string
	kind Kind
}{
	{"active-active", Any},
	{"none", Any},
	{"local", LocalFirst},
	{"remote", ExternalFirst},
}

// Parse reads a strategy as it stands in configuration, in a policy or in a header, and gives
// the canonical form of an alias. Anything else, a variant in case included, is an *InputError
// with reason BadStrategy that lists what is accepted and names the nearest word.
func Parse(s string) (Kind, error) {
	words := make([]string, 0, len(kinds)+len(aliases))
	for _, k := range kinds {
		if s == string(k) {
			return k, nil
		}
		words = append(words, string(k))
	}
	for _, a := range aliases {
		if s == a.word {
			return a.kind, nil
		}
		words = append(words, a.word)
	}
	accepted := strings.Join(words[:len(kinds)], ", ") + "; also"
	for i, a := range aliases {
		if i > 0 {
			accepted += ","
		}
		accepted += fmt.Sprintf(" %s (%s)", a.word, a.kind)
	}
	if s == "" {
		return "", &InputError{BadStrategy, "strategy is empty: want " + accepted}
	}
	near, _ := nearest.Word(s, words)
	return "", &InputError{BadStrategy, fmt.Sprintf("unknown strategy %s: did you mean %q? Accepted are %s",
		quote(s), near, accepted)}
}

func (k Kind) valid() bool {
	for _, v := range kinds {
		if k == v {
			return true
		}
	}
	return false
}

func (k Kind) usesLocal() bool    { return k != ExternalOnly }
func (k Kind) usesExternal() bool { return k != LocalOnly }

// Reason is a word from a fixed list, for errors, explain and metrics.
type Reason string

// Why an instance is in no tier, in the order of the pipeline: the first that holds is given.
const (
	Disabled   Reason = "DISABLED"    // its registry says so
	WeightZero Reason = "WEIGHT_ZERO" // its weight is 0, or the policy gives its cluster weight 0
	Cordoned   Reason = "CORDONED"    // somebody cordoned its cluster, or the service in its cluster
	Expired    Reason = "EXPIRED"     // nothing was heard of its cluster for `staleTTL`
	Removed    Reason = "REMOVED"     // its cluster was released or is exported no more
	Draining   Reason = "DRAINING"    // it takes no new calls
	Unhealthy  Reason = "UNHEALTHY"   // its registry says so, and recover-all does not use it
	Ejected    Reason = "EJECTED"     // this agent ejected it after failures, and recover-all does not use it
	Undialable Reason = "UNDIALABLE"  // nobody is known who could be dialled for it

	// Unreachable is also the Failure of a broadcast tier.
	Unreachable Reason = "UNREACHABLE" // the way to it, or its cluster as a whole, was measured not to answer

	ByStrategy Reason = "STRATEGY" // the strategy never uses its cluster
	ByPin      Reason = "PIN"      // the call is pinned to another cluster
	ByOrder    Reason = "ORDER"    // `externalOrder` does not name its cluster
	ByLocality Reason = "LOCALITY" // `locality` is strict, and it is not in the caller's zone (or region)
)

// Why nobody can be picked. All but NotFound are UNAVAILABLE to a caller.
const (
	NoLocalInstances    Reason = "NO_LOCAL_INSTANCES"    // none that can be picked, and only the caller's own cluster was allowed
	NoExternalInstances Reason = "NO_EXTERNAL_INSTANCES" // none that can be picked, and only other clusters were allowed
	NoInstances         Reason = "NO_INSTANCES"          // none that can be picked, and both were allowed
	NotSynced           Reason = "NOT_SYNCED"            // too little is known to call it absent, or the policies are not known yet
	NotFound            Reason = "NOT_FOUND"             // every cluster is synced and none knows the name
)

// What is wrong with an Input. All are INVALID_ARGUMENT to a caller.
const (
	BadStrategy   Reason = "BAD_STRATEGY"    // the word is no strategy
	NoSuchCluster Reason = "NO_SUCH_CLUSTER" // the pin names a cluster the federation does not have
	Contradiction Reason = "CONTRADICTION"   // the pin names a cluster that the call's own strategy excludes
)

// InputError says that a caller asked for something that makes no sense, whatever is running.
type InputError struct {
	Reason Reason // BadStrategy, NoSuchCluster or Contradiction
	Text   string // a sentence with the nearest valid choice
}

// Error gives the sentence.
func (e *InputError) Error() string { return e.Text }
