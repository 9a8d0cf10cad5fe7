package links

import (
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// sceptic is a sink that an intake could be behind: it looks at all that it is given.
type sceptic struct {
	t    *testing.T
	full bool
	last catalog.Update
}

var _ resolvers.Sink = (*sceptic)(nil)

func (s *sceptic) Publish(u catalog.Update) {
	if !s.full && !u.Full {
		s.t.Error("the first update is not full")
	}
	s.full, s.last = true, u
	s.text("reset", u.Reset)
	s.text("revision", u.Revision)
	for _, snap := range u.Snapshots {
		for _, a := range snap.SetAside {
			s.text("record", a.Record)
			s.text("reason", a.Reason)
		}
		for _, i := range snap.Instances {
			if i == nil {
				s.t.Fatal("an instance is nil")
			}
			if i.Cluster != "" && i.Cluster != "edge" {
				s.t.Errorf("an instance of cluster %q", i.Cluster)
			}
			if i.Check() == nil && !utf8.ValidString(i.String()) {
				s.t.Errorf("an instance that passes its check is no text: %q", i)
			}
		}
	}
}

func (s *sceptic) Confirm() {
	if !s.full {
		s.t.Error("confirmed before anything was published")
	}
}

func (s *sceptic) Failed(err error) { s.text("failure", err.Error()) }

func (s *sceptic) text(what, text string) {
	if !utf8.ValidString(text) || len(text) > 2*maxText {
		s.t.Errorf("%s has %d bytes: %.40q", what, len(text), text)
	}
}

// Whatever an agent sends, nobody falls over it, and what goes on to the intake is what a
// resolver may publish.
func FuzzContribution(f *testing.F) {
	inst := &catalogv1.Instance{Cluster: "edge", Namespace: "default", Service: "cart", Id: "x", Address: "10.0.0.1", Port: 80, Health: 99, Metadata: map[string]string{"a": "b"}}
	for _, req := range []*feedv1.ContributeRequest{
		{},
		{Contributor: &feedv1.Contributor{Federation: "f", Cluster: "edge", Node: "n"}},
		{Standing: &feedv1.Standing{}},
		{Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "m", Complete: true, Age: &durationpb.Duration{Seconds: -1, Nanos: 2e9}, Error: "down"}, {Name: "n"}}}},
		{Contribution: &feedv1.Contribution{Full: true, Reset_: "index went back", Revision: "7", Snapshots: []*feedv1.Snapshot{{
			Source: "s", Services: []*feedv1.ServiceName{{Service: "cart"}, {}}, Instances: []*catalogv1.Instance{inst, {}, {Cluster: "west"}},
			SetAside: []*feedv1.SetAside{{Record: "r", Reason: "because"}},
		}}}},
		{Contribution: &feedv1.Contribution{Full: true, More: true}},
		{Contribution: &feedv1.Contribution{Explicit: true, Snapshots: []*feedv1.Snapshot{{}}}},
	} {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, read bool) {
		var req feedv1.ContributeRequest
		if proto.Unmarshal(data, &req) != nil {
			return
		}
		in, now := &captured{}, time.Unix(1_800_000_000, 0)
		c := New("edge", Deps{
			Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry()), Registries: in, Reported: func() {},
			Known:  func() []Known { return nil },
			Stored: func(string) []*catalog.Instance { return nil },
		})
		x, err := c.Join(now, &feedv1.Contributor{Node: "n", Incarnation: "i"})
		if err != nil {
			t.Fatal(err)
		}
		stand := &feedv1.Standing{Links: []*feedv1.Link{{Name: "m", Complete: true, Age: durationpb.New(0)}}}
		if err := x.Take(now, &feedv1.ContributeRequest{Standing: stand}); err != nil {
			t.Fatal(err)
		}
		k := c.links["m"]
		k.out = &sceptic{t: t}
		if read {
			if err := x.Take(now, &feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "m", Term: k.term, Full: true}}); err != nil {
				t.Fatal(err)
			}
		}
		if req.GetContribution() != nil {
			req.Contribution.Link, req.Contribution.Term = "m", k.term
		}
		for range 2 {
			_ = x.Take(now, &req) // it may be refused, in words
			now = now.Add(time.Second)
			c.tick(now)
			x.Next()
		}
		x.Leave(now)
		c.tick(now.Add(staleTTL))
		if len(x.pending) > 0 || x.bytes != 0 || len(c.seats) > 0 || len(c.links) > 0 {
			t.Errorf("left behind: %d bytes, %d seats, %d links", x.bytes, len(c.seats), len(c.links))
		}
	})
}
