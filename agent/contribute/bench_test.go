package contribute

import (
	"fmt"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/inbox"
	"github.com/farcall/farcall/resolvers/intake"
)

// What one change costs here, of a service that is one source: while nobody was granted the link
// (and so in every cluster that is not read via its agents), and when it is put into messages.
func BenchmarkOneChange(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		u := update("a:")
		for n := range count {
			i := *update("a: x").Snapshots[0].Instances[0]
			i.Instance = fmt.Sprint("cart-", n)
			u.Snapshots[0].Instances = append(u.Snapshots[0].Instances, &i)
		}
		b.Run(fmt.Sprintf("listen/%d", count), func(b *testing.B) {
			t := newTap(LinkSource{Registry: intake.Registry{Name: "consul"}}, func() {})
			t.publish(full("a:", "b: x"))
			b.ReportAllocs()
			for b.Loop() {
				t.publish(u)
			}
		})
		b.Run(fmt.Sprintf("send/%d", count), func(b *testing.B) {
			r := intake.Registry{Name: "consul"}
			b.ReportAllocs()
			for b.Loop() {
				for range parts("consul", 1, r.Map(u)) {
				}
			}
		})
	}
	b.Run("grant/10000 sources", func(b *testing.B) {
		t := newTap(LinkSource{Registry: intake.Registry{Name: "consul"}}, func() {})
		all := catalog.Update{Full: true}
		for n := range 10_000 {
			all.Snapshots = append(all.Snapshots, update(fmt.Sprint("s", n, ": x")).Snapshots...)
		}
		t.publish(all)
		to := inbox.New(make(chan struct{}, 1))
		b.ReportAllocs()
		for b.Loop() {
			t.begin(to)
		}
	})
}
