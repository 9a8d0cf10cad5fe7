//go:build real && linux

package robustness

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// kind is a kind of fault. Its functions run on the driver's goroutine, which is the test's.
type kind struct {
	name   string // as in history.Fault.Kind, "etcd-leader-killed"
	matrix string // the row of the fault matrix, "F2"
	// takes is what it occupies: "etcd", "store" (the way from the synchronizers to etcd),
	// "synchronizers", "feed" (the way from agents to synchronizers), "agents", "peers" (the ways
	// between agents), "registry:vms", "apps:vms". Two faults of an episode take nothing in common.
	takes []string
	// least is how long it is held at least; a second where it is not set.
	least time.Duration
	// begin makes it happen and returns how it ends. end returns what was seen of it, "" for no
	// effect. rnd decides targets and parameters. Where begin fails, the run does.
	begin func(ctx context.Context, w *world, rnd *rand.Rand) (f history.Fault, end endFault, err error)
}

// endFault ends a fault and says what was seen of it. It returns when everything runs again; whether
// everybody has recovered is for the episode to wait for.
type endFault func(ctx context.Context) (effect string, err error)

// kinds are all kinds of faults, in an order that does not change between runs.
func kinds() []kind {
	var out []kind
	out = append(out, etcdKinds()...)
	out = append(out, storeKinds()...)
	out = append(out, synchronizerKinds()...)
	out = append(out, agentKinds()...)
	out = append(out, peerKinds()...)
	return append(out, registryKinds()...)
}
