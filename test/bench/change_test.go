package bench

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// perSource is how many instances of a service one source has, as an EndpointSlice does.
const perSource = 100

// source makes the n-th source of a service, with one of its instances on a port.
func source(service string, n, port int) catalog.Snapshot {
	name := catalog.Name{Service: service}
	s := catalog.Snapshot{Source: fmt.Sprint(service, "-", n), Services: []catalog.Name{name}}
	for i := n * perSource; i < (n+1)*perSource; i++ {
		s.Instances = append(s.Instances, &catalog.Instance{
			ID: catalog.ID{Name: name, Instance: fmt.Sprintf("%s-7d4b9c6f5-%05d", service, i)}, Node: fmt.Sprint("node-", i%50),
			Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 8080, Weight: 1, Health: catalog.Healthy,
			Metadata: map[string]string{"version": "v2"},
		})
	}
	s.Instances[perSource/2].Port = port
	return s
}

// catalogue is a registry of 20 000 instances, so many of them of cart and the rest in services of 100:
// the garbage collector's work grows with what is held, so that it weighs the same either way.
func catalogue(ofCart int) catalog.Update {
	u := catalog.Update{Full: true}
	for n := range ofCart / perSource {
		u.Snapshots = append(u.Snapshots, source("cart", n, 8080))
	}
	for n := range (20_000 - ofCart) / perSource {
		u.Snapshots = append(u.Snapshots, source(fmt.Sprint("svc-", n), 0, 8080))
	}
	return u
}

// changes follows the feed as an agent does, and gives the number of values that came of cart.
func changes(b *testing.B, synchronizer string) (next func() int) {
	b.Helper()
	cc, err := grpc.NewClient(synchronizer, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cc.Close() })
	stream, err := feedv1.NewFeedClient(cc).Watch(b.Context(), &feedv1.WatchRequest{Cluster: "west", Node: "n"}, grpc.WaitForReady(true))
	if err != nil {
		b.Fatal(err)
	}
	return func() int {
		m, err := stream.Recv()
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for _, e := range m.GetEntries() {
			if strings.Contains(e.GetKey(), "/services/default/cart/") {
				n++
			}
		}
		return n
	}
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

// BenchmarkOneChange is one changed instance of a service, from the registry's notification through the
// synchronizer and its embedded etcd to a reader of the feed.
func BenchmarkOneChange(b *testing.B) {
	for _, instances := range []int{perSource, 10_000} {
		b.Run(fmt.Sprint(instances), func(b *testing.B) {
			west := &push{last: catalogue(instances)}
			next := changes(b, start(b, map[string]*push{"west": west}))
			for got := 0; got < instances/perSource; {
				got += next()
			}
			middle := instances / perSource / 2
			change := [2]catalog.Update{
				{Snapshots: []catalog.Snapshot{source("cart", middle, 8080)}},
				{Snapshots: []catalog.Snapshot{source("cart", middle, 8081)}},
			}
			b.ReportAllocs()
			began := processorTime(b)
			n := 0
			for b.Loop() {
				n++
				west.publish(change[n%2])
				for next() == 0 {
				}
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(n), "cpu-µs/op")
		})
	}
}
