package store

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// bulk makes n instances of a service.
func bulk(n catalog.Name, count int) []*catalog.Instance {
	out := make([]*catalog.Instance, count)
	for i := range out {
		out[i] = &catalog.Instance{
			ID: catalog.ID{Cluster: "east", Name: n, Instance: fmt.Sprintf("%s-7d4b9c6f5-%05d", n.Service, i)}, Node: fmt.Sprint("node-", i%50),
			Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 8080, Weight: 1, Health: catalog.Healthy,
			Metadata: map[string]string{"version": "v2"}, Registry: "kubernetes",
		}
	}
	return out
}

// flip gives a list twice: as it is, and with the instance in its middle changed. The others are
// the same values in both, as the intake gives them.
func flip(list []*catalog.Instance) [2]map[catalog.Name]List {
	other := slices.Clone(list)
	changed := *list[len(list)/2]
	changed.Port++
	other[len(list)/2] = &changed
	return [2]map[catalog.Name]List{{cart: {Instances: list}}, {cart: {Instances: other}}}
}

// catalogue is everything a cluster of 20 000 instances has, cart among it: the garbage collector's
// work grows with what is held, so that it weighs the same whatever the size of cart.
func catalogue(cartSize int) map[catalog.Name]List {
	out := map[catalog.Name]List{cart: {Instances: bulk(cart, cartSize)}}
	for i := range (20_000 - cartSize) / 100 {
		n := name(fmt.Sprint("svc-", i))
		out[n] = List{Instances: bulk(n, 100)}
	}
	return out
}

// processorTime is what this process took of the processors, the garbage collector's share included.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOneChange is the publishing of one changed instance of a service, into an etcd in this
// process, whose own work is in the figure.
func BenchmarkOneChange(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, _ := embeddedStore(b, b.TempDir())
			m := member(s, "a", "east")
			m.ttl, m.beat = 2*time.Hour, time.Hour
			ctx := testkit.Context(b)
			term := openOffice(b, m).term(b, ctx, "east", 1)
			all := catalogue(size)
			publish(b, ctx, term, true, all)
			change := flip(all[cart].Instances)
			b.ReportAllocs()
			began := processorTime(b)
			i := 0
			for b.Loop() {
				i++
				publish(b, ctx, term, false, change[i%2])
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(i), "cpu-µs/op")
		})
	}
}

// BenchmarkPlanOneChange is the part of it before etcd: finding out what to write.
func BenchmarkPlanOneChange(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			term := &Term{
				cluster:  "east",
				store:    newStore(b, Config{Embedded: &EmbeddedConfig{DataDir: "unused"}}),
				services: map[catalog.Name][]slice{}, lists: map[catalog.Name][]*catalog.Instance{},
			}
			dry := func(lists map[catalog.Name]List) {
				_, changes := term.sift(lists)
				for _, s := range term.plan(changes, false) {
					term.services[s.name] = s.apply(term.services[s.name])
				}
				term.remember(changes)
			}
			all := catalogue(size)
			dry(all)
			change := flip(all[cart].Instances)
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				dry(change[i%2])
			}
		})
	}
}

// BenchmarkSurvey is one comparison of everything with an etcd in this process, whose own work is in the
// figure: of 100 000 instances in slices of a hundred, and of ten.
func BenchmarkSurvey(b *testing.B) {
	for _, slices := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(slices), func(b *testing.B) {
			s, _ := embeddedStore(b, b.TempDir())
			ctx := testkit.Context(b)
			value := string(make([]byte, 500_000/slices*10))
			for n := range slices {
				key := s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: fmt.Sprint("cluster-", n%10), Name: name(fmt.Sprint("service-", n))})
				if _, err := s.client.Put(ctx, key, value); err != nil {
					b.Fatal(err)
				}
			}
			id, rev, err := s.identify(ctx)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			began := processorTime(b)
			found, rounds := 0, 0
			for b.Loop() {
				found, rounds = 0, rounds+1
				if err := s.Survey(ctx, id, rev, func(key string, changed int64) { keys.Mark(key, changed); found++ }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(rounds), "cpu-µs/op")
			if found < slices {
				b.Errorf("%d keys of %d", found, slices)
			}
		})
	}
}
