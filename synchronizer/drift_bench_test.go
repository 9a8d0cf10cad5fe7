package synchronizer

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// benchHub is a hub of so many slices, of ten clusters.
func benchHub(b *testing.B, slices int) *hub {
	b.Helper()
	schema, err := keys.New("test")
	if err != nil {
		b.Fatal(err)
	}
	m := mirror.New(schema)
	h := newHub(schema, "test", m, newMetrics(prometheus.NewRegistry(), m))
	entries := make([]store.Entry, slices)
	for n := range entries {
		entries[n] = store.Entry{Key: sliceKey(n), Value: make([]byte, 4<<10), Revision: int64(n + 1)}
	}
	list(h, "s1", int64(slices), entries...)
	return h
}

func sliceKey(n int) string {
	return fmt.Sprintf("/farcall/v1/test/clusters/cluster-%d/services/default/service-%06d/0", n%10, n)
}

// BenchmarkSumsChange is what one changed slice costs on top, whatever else is held.
func BenchmarkSumsChange(b *testing.B) {
	for _, slices := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(slices), func(b *testing.B) {
			h := benchHub(b, slices)
			e := &feedv1.Entry{Key: sliceKey(7), Revision: int64(slices + 1)}
			b.ReportAllocs()
			for b.Loop() {
				e.Revision++
				h.sums.change(h.entries, []*feedv1.Entry{e}, e.Revision)
				h.entries[e.Key] = e
			}
		})
	}
}

// BenchmarkCompareReport is the comparison of one agent's report.
func BenchmarkCompareReport(b *testing.B) {
	h := benchHub(b, 1000)
	a := &auditor{hub: h, log: testkit.Quiet(), metrics: h.metrics.drift}
	r := reported{agent: mirror.AgentKey{Cluster: "east", Node: "n"}, storeID: "s1", revision: h.revision, digest: h.sums.parts, says: true}
	var state audit
	b.ReportAllocs()
	for b.Loop() {
		a.check(time.Now(), &state, r)
	}
}

// BenchmarkSnapshot is the making of a snapshot, which others wait for nothing of.
func BenchmarkSnapshot(b *testing.B) {
	for _, slices := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(slices), func(b *testing.B) {
			h := benchHub(b, slices)
			for b.Loop() {
				h.snapshot = nil
				r := h.read("", 0)
				r.step()
			}
		})
	}
}
