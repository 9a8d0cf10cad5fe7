//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

// valueKinds are values in etcd that nobody of Farcall's wrote. No owner may change at the same time:
// what it would make of them is its own fault.
func valueKinds() []kind {
	takes := []string{"values", "etcd", "store", "synchronizers"}
	return []kind{
		{name: "value-cut", matrix: "F31", takes: takes, begin: poison(func(old string, _ *rand.Rand) string { return old[:len(old)/2] })},
		{name: "value-bit-flipped", matrix: "F31", takes: takes, begin: poison(func(old string, rnd *rand.Rand) string {
			b := []byte(old)
			b[len(b)-6+rnd.IntN(6)] ^= 1 // of a compressed value's checksum, or just before it
			return string(b)
		})},
		{name: "value-of-a-newer-version", matrix: "F31", takes: takes, begin: poison(func(old string, _ *rand.Rand) string { return "\x7f" + old[1:] })},
		{name: "value-of-another-key", matrix: "F31", takes: takes, begin: poisonForeign},
		{name: "key-of-a-newer-version", matrix: "F31", takes: takes, begin: poisonKey},
	}
}

// sliceKey is the first slice of cart in a cluster.
func (w *world) sliceKey(cluster string) (key, old string) {
	for _, key := range w.seen.held(verdict.Store) {
		if strings.HasPrefix(key, w.schema().Cluster(cluster)+"services/default/cart/") {
			return key, w.etcd.Get(key)
		}
	}
	return "", ""
}

func poison(spoil func(old string, rnd *rand.Rand) string) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		cluster := w.names[rnd.IntN(len(w.names))]
		key, old := w.sliceKey(cluster)
		if len(old) < 16 {
			return history.Fault{Target: cluster, Cluster: cluster}, func(context.Context) (string, error) { return "", nil }, nil
		}
		return w.poisoned(cluster, key, old, spoil(old, rnd))
	}
}

// poisonForeign puts the value of one cluster's key under another's.
func poisonForeign(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	n := rnd.IntN(len(w.names))
	cluster := w.names[n]
	key, old := w.sliceKey(cluster)
	_, other := w.sliceKey(w.names[(n+1)%len(w.names)])
	return w.poisoned(cluster, key, old, other)
}

// poisonKey writes a key of which this version knows nothing, among those of a cluster.
func poisonKey(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	cluster := w.names[rnd.IntN(len(w.names))]
	key := w.schema().Cluster(cluster) + fmt.Sprint("novelties/", rnd.IntN(1000))
	w.etcd.Put(key, "\x7fsomething new")
	return history.Fault{Target: key, Cluster: cluster}, func(context.Context) (string, error) {
		defer w.etcd.Delete(key)
		if w.etcd.Get(key) == "" {
			return "", nil
		}
		return "it stood there", nil
	}, nil
}

// poisoned writes a value and says, at the end, who mended it.
func (w *world) poisoned(cluster, key, old, bad string) (history.Fault, endFault, error) {
	k, err := w.schema().Parse(key)
	if err != nil || k.Kind != keys.Slice {
		return history.Fault{}, nil, fmt.Errorf("%q is no slice of %s: %w", key, cluster, err)
	}
	before := w.seen.revision(verdict.Store, key)
	w.etcd.Put(key, bad)
	return history.Fault{Target: key, Cluster: cluster}, func(context.Context) (string, error) {
		switch now := w.etcd.Get(key); {
		case now == bad:
			return "it stood there till the end", nil
		case w.seen.revision(verdict.Store, key) > before+1:
			return "its owner wrote it again", nil
		case now == old:
			return "its owner put it back", nil
		}
		return "", nil
	}, nil
}
