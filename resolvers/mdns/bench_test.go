package mdns

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// ignoring takes updates and keeps nothing.
type ignoring struct{ snapshots int }

func (i *ignoring) Publish(u catalog.Update) { i.snapshots += len(u.Snapshots) }
func (i *ignoring) Confirm()                 {}
func (i *ignoring) Failed(error)             {}

// listening gives a browser that heard n daprds of one application, each on a host of its own.
func listening(b *testing.B, n int) (*scene, *ignoring) {
	s := newScene(b, nil, nicAt(1, "eth0", "10.0.0.1/16"))
	out := &ignoring{}
	s.b.out = out
	s.pass(0)
	for i := range n {
		s.b.heard(s.now, packed(b, said(daprd("cart", fmt.Sprintf("host-%d:1", i), addrOf(i), 50002)...)))
	}
	s.pass(4 * time.Second)
	if out.snapshots != n {
		b.Fatalf("%d instances were published, want %d", out.snapshots, n)
	}
	return s, out
}

func addrOf(i int) string {
	return netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(1 + i%250)}).String()
}

// BenchmarkOneChange is what one more announcement costs in a service of so many instances: the
// packet of an instance that moved to another port, from the wire to the sink, and the end of
// the record that it displaced. What the protocol asks for in any case, renewing the others, is
// left out.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, out := listening(b, n)
			var moves [2]packet
			for i := range moves {
				moves[i] = packed(b, said(daprd("cart", "host-0:1", addrOf(0), uint16(50010+i))...))
			}
			rest := make([]packet, 0, n)
			for k := 1; k < n; k++ {
				rest = append(rest, packed(b, said(daprd("cart", fmt.Sprintf("host-%d:1", k), addrOf(k), 50002)...)))
			}
			send := func(*ear, []byte) error { return nil }
			b.ReportAllocs()
			b.ResetTimer()
			published := out.snapshots
			for i := range b.N {
				if i%80 == 0 { // the others are heard again every minute, and neither asked nor looked for
					b.StopTimer()
					for _, p := range rest {
						s.b.heard(s.now, p)
					}
					l := s.b.ears["eth0"].link
					for _, t := range l.types {
						t.next = s.now.Add(time.Hour)
					}
					l.nextType = s.now.Add(time.Hour)
					l.cache.rewind()
					b.StartTimer()
				}
				s.now = s.now.Add(1100 * time.Millisecond) // so that the record before is displaced
				s.b.heard(s.now, packet{index: 1, pulse: true})
				s.b.heard(s.now, moves[i%2])
				if err := s.b.step(s.now, send); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			if out.snapshots-published < b.N {
				b.Errorf("%d changes were published, want %d", out.snapshots-published, b.N)
			}
			runtime.KeepAlive(s)
		})
	}
}

// BenchmarkMemory is the memory of one more service with one instance, and of one more instance
// of a service, each on a host of its own.
func BenchmarkMemory(b *testing.B) {
	const n = 1000
	for unit, app := range map[string]string{"B/service": "app-%d", "B/instance": "app"} {
		b.Run(unit, func(b *testing.B) {
			for range b.N {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				s := newScene(b, nil, nicAt(1, "eth0", "10.0.0.1/16"))
				s.b.out = &ignoring{}
				s.pass(0)
				for i := range n {
					name := app
					if app != "app" {
						name = fmt.Sprintf(app, i)
					}
					s.b.heard(s.now, packed(b, said(daprd(name, fmt.Sprintf("host-%d:1", i), addrOf(i), 50002)...)))
				}
				s.pass(4 * time.Second)
				clear(s.sent)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, unit)
				runtime.KeepAlive(s)
			}
		})
	}
}
