package contribute

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
)

func collect(t *testing.T, u catalog.Update) []*feedv1.Contribution {
	t.Helper()
	all := slices.Collect(parts("consul", 3, u))
	for n, p := range all {
		if _, err := proto.Marshal(p); err != nil {
			t.Errorf("part %d cannot be written: %v", n, err)
		}
		if p.GetMore() == (n == len(all)-1) {
			t.Errorf("part %d of %d: more %t", n, len(all), p.GetMore())
		}
		if p.GetLink() != "consul" || p.GetTerm() != 3 || p.GetFull() != u.Full || p.GetExplicit() != u.Explicit {
			t.Errorf("part %d is of another update: %v", n, p)
		}
	}
	return all
}

func TestPartsOfNothing(t *testing.T) {
	if all := collect(t, catalog.Update{Full: true}); len(all) != 1 || len(all[0].GetSnapshots()) != 0 {
		t.Errorf("%v", all)
	}
	if all := collect(t, update("a:")); len(all) != 1 || words(all[0]) != "consul/3 [a:]" {
		t.Errorf("%v", all)
	}
}

// What can be written at all is left to who reads it, be it good or bad. The rest would end the
// stream, for every link.
func TestWhatCannotBeWrittenIsSetAside(t *testing.T) {
	u := update("a: good far", "b\xff: odd")
	for n := range u.Snapshots {
		u.Snapshots[n].Services = nil
		for _, i := range u.Snapshots[n].Instances {
			i.Namespace = "shop"
		}
	}
	far := u.Snapshots[0].Instances[1]
	far.Port = 70_000 // not this end's business
	bad := func(change func(*catalog.Instance)) {
		i := *u.Snapshots[0].Instances[0]
		change(&i)
		u.Snapshots[0].Instances = append(u.Snapshots[0].Instances, &i)
	}
	bad(func(i *catalog.Instance) { i.Node = "n\xff" })
	bad(func(i *catalog.Instance) { i.Instance = "i\xff" })
	bad(func(i *catalog.Instance) { i.Metadata = map[string]string{"k": "\xff"} })
	bad(func(i *catalog.Instance) { i.Port = -1 })
	bad(func(i *catalog.Instance) { i.Metadata = map[string]string{"k": strings.Repeat("x", maxRecord)} })
	u.Snapshots[0].Services = append(u.Snapshots[0].Services, catalog.Name{Namespace: "shop", Service: strings.Repeat("s", 5<<20)})
	u.Snapshots[0].SetAside = []catalog.SetAside{{Record: "r\xff", Reason: strings.Repeat("why ", 1<<20)}}
	u.Reset, u.Revision = "r\xff", "\xff"
	all := collect(t, u)
	if len(all) != 1 {
		t.Fatalf("%d parts", len(all))
	}
	a, b := all[0].GetSnapshots()[0], all[0].GetSnapshots()[1]
	if len(a.GetInstances()) != 2 || a.GetInstances()[1].GetPort() != 70_000 || len(a.GetSetAside()) != 7 {
		t.Errorf("instances %v, set aside %v", a.GetInstances(), a.GetSetAside())
	}
	if !strings.HasPrefix(b.GetSource(), "sha256:") || len(b.GetInstances()) != 1 {
		t.Errorf("the odd source: %v", b)
	}
	if n := proto.Size(all[0]); n > 20_000 {
		t.Errorf("%d bytes", n)
	}
}

// A strategy goes with the service that it is of, in whichever part that is.
func TestStrategiesGoWithTheirServices(t *testing.T) {
	s := catalog.Snapshot{Source: "a", Strategies: map[catalog.Name]string{}}
	for n := range 60_000 {
		name := catalog.Name{Namespace: "shop", Service: fmt.Sprintf("service-%05d", n)}
		s.Services = append(s.Services, name)
		if n%3 == 0 {
			s.Strategies[name] = "local-only"
		}
	}
	s.Strategies[s.Services[1]] = "odd\xff"
	all := collect(t, catalog.Update{Full: true, Snapshots: []catalog.Snapshot{s}})
	if len(all) < 2 {
		t.Fatalf("%d parts, want several", len(all))
	}
	n := 0
	for _, p := range all {
		for _, piece := range p.GetSnapshots() {
			for _, is := range piece.GetServices() {
				want := s.Strategies[catalog.Name{Namespace: is.GetNamespace(), Service: is.GetService()}]
				if n == 1 {
					want = "odd\uFFFD"
				}
				if is.GetStrategy() != want {
					t.Fatalf("%v has strategy %q, want %q", is, is.GetStrategy(), want)
				}
				n++
			}
		}
	}
	if n != len(s.Services) {
		t.Errorf("%d services came, want %d", n, len(s.Services))
	}
}

// Whatever the sizes, the parts together say what the update says.
func FuzzParts(f *testing.F) {
	f.Add(uint16(3), uint16(40_000), uint16(500), true)
	f.Add(uint16(1), uint16(0), uint16(1), false)
	f.Fuzz(func(t *testing.T, sources, pad, instances uint16, full bool) {
		u := catalog.Update{Full: full}
		want := map[string]bool{}
		text := strings.Repeat("x", int(pad)%60_000)
		for s := range int(sources) % 20 {
			snap := catalog.Snapshot{Source: fmt.Sprint("s", s), Services: []catalog.Name{{Namespace: "shop", Service: fmt.Sprint("svc-", s)}}}
			want[fmt.Sprint("s", s, " shop/svc-", s)] = true
			for n := range int(instances) % 100 {
				i := &catalog.Instance{ID: catalog.ID{Name: snap.Services[0], Instance: fmt.Sprint(n)}, Address: "10.0.0.1", Port: 80}
				i.Metadata = map[string]string{"pad": text}
				snap.Instances = append(snap.Instances, i)
				want[fmt.Sprint("s", s, " ", n)] = true
			}
			u.Snapshots = append(u.Snapshots, snap)
		}
		have := map[string]bool{}
		for _, p := range collect(t, u) {
			if n := proto.Size(p); n > partSize+maxRecord {
				t.Errorf("a part of %d bytes", n)
			}
			for _, s := range p.GetSnapshots() {
				for _, n := range s.GetServices() {
					have[s.GetSource()+" "+n.GetNamespace()+"/"+n.GetService()] = true
				}
				for _, i := range s.GetInstances() {
					have[s.GetSource()+" "+i.GetId()] = true
				}
			}
		}
		for w := range want {
			if !have[w] {
				t.Errorf("%s is missing", w)
			}
		}
		if len(have) != len(want) {
			t.Errorf("%d things came, %d were there", len(have), len(want))
		}
	})
}
