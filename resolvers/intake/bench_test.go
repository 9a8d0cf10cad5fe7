package intake

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// bulk makes a source of one service: instances first to first+n-1, all on one port.
func bulk(source, service string, first, n, port int) catalog.Snapshot {
	name := catalog.Name{Namespace: "default", Service: service}
	s := catalog.Snapshot{Source: source, Services: []catalog.Name{name}}
	for i := first; i < first+n; i++ {
		s.Instances = append(s.Instances, &catalog.Instance{
			ID: catalog.ID{Name: name, Instance: fmt.Sprintf("cart-7d4b9c6f5-%05d", i)}, Node: fmt.Sprint("node-", i%50),
			Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: port, Weight: 1, Health: catalog.Healthy,
			Metadata: map[string]string{"version": "v2"},
		})
	}
	return s
}

// spread makes a service of several sources of perSource instances.
func spread(service string, instances, perSource int) catalog.Update {
	u := catalog.Update{Full: true}
	for first := 0; first < instances; first += perSource {
		u.Snapshots = append(u.Snapshots, bulk(fmt.Sprint(service, "-", first), service, first, min(perSource, instances-first), 8080))
	}
	return u
}

// other makes the rest of a registry: services of 100 instances.
func other(instances int) catalog.Update {
	var u catalog.Update
	for i := range instances / 100 {
		u.Snapshots = append(u.Snapshots, bulk(fmt.Sprint("svc-", i), fmt.Sprint("svc-", i), 0, 100, 8080))
	}
	return u
}

// flip gives two reads of the source in the middle of a service: as it was first, and with one
// instance in it changed.
func flip(service string, instances, perSource int) [2]catalog.Update {
	first := instances / 2 / perSource * perSource
	source, n := fmt.Sprint(service, "-", first), min(perSource, instances-first)
	was, is := bulk(source, service, first, n, 8080), bulk(source, service, first, n, 8080)
	is.Instances[n/2].Port = 8081
	return [2]catalog.Update{{Snapshots: []catalog.Snapshot{was}}, {Snapshots: []catalog.Snapshot{is}}}
}

func measured(b *testing.B, registries ...Registry) *Intake {
	b.Helper()
	in, err := New(Config{Cluster: "east", Registries: registries}, Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		b.Fatal(err)
	}
	return in
}

// oneChange measures from what a resolver publishes to the Change, without the goroutines
// between.
func oneChange(b *testing.B, in *Intake, change [2]catalog.Update) {
	b.Helper()
	now := time.Now()
	in.pass(now)
	b.ReportAllocs()
	for i := 1; b.Loop(); i++ {
		in.registries[0].inbox.Publish(change[i%2])
		if ch, _ := in.pass(now); len(ch.Services) != 1 {
			b.Fatalf("%d services changed, want 1", len(ch.Services))
		}
	}
}

// One change in a service that is spread over sources of 100 instances, as Kubernetes does it,
// is to cost what changed. The registry holds 20 000 instances in all either way, so that the
// garbage collector, whose work grows with what is held, weighs the same.
func BenchmarkOneChange(b *testing.B) {
	for _, instances := range []int{100, 10_000} {
		b.Run(fmt.Sprint(instances), func(b *testing.B) {
			in := measured(b, Registry{Name: "kubernetes", Resolver: newSaid()})
			in.registries[0].inbox.Publish(spread("cart", instances, 100))
			in.registries[0].inbox.Publish(other(20_000 - instances))
			oneChange(b, in, flip("cart", instances, 100))
		})
	}
}

// A second registry lists the same service: half of its instances are the same, and shadowed.
func BenchmarkOneChangeTwoRegistries(b *testing.B) {
	for _, instances := range []int{100, 10_000} {
		b.Run(fmt.Sprint(instances), func(b *testing.B) {
			in := measured(b, Registry{Name: "kubernetes", Resolver: newSaid()}, Registry{Name: "consul", Resolver: newSaid()})
			in.registries[0].inbox.Publish(spread("cart", instances, 100))
			in.registries[1].inbox.Publish(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{bulk("cart", "cart", instances/2, instances, 9090)}})
			oneChange(b, in, flip("cart", instances, 100))
		})
	}
}

// Where one source holds the whole service, as in Consul, every read of it is one of all its
// instances.
func BenchmarkOneChangeOneSource(b *testing.B) {
	for _, instances := range []int{100, 10_000} {
		b.Run(fmt.Sprint(instances), func(b *testing.B) {
			in := measured(b, Registry{Name: "consul", Resolver: newSaid()})
			in.registries[0].inbox.Publish(spread("cart", instances, instances))
			oneChange(b, in, flip("cart", instances, instances))
		})
	}
}

// What a watched service of ten instances costs in memory, its records in the resolver's hands
// not counted.
func BenchmarkMemory(b *testing.B) {
	const services = 1000
	var before, after runtime.MemStats
	for b.Loop() {
		u := catalog.Update{Full: true}
		for i := range services {
			u.Snapshots = append(u.Snapshots, bulk(fmt.Sprint("svc-", i), fmt.Sprint("svc-", i), 0, 10, 8080))
		}
		in := measured(b, Registry{Name: "kubernetes", Resolver: newSaid()})
		runtime.GC()
		runtime.ReadMemStats(&before)
		in.registries[0].inbox.Publish(u)
		ch, _ := in.pass(time.Now())
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(u)
		runtime.KeepAlive(ch)
		runtime.KeepAlive(in)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/services, "B/service")
}
