package links

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

// One of those who hear a link reports it; when it goes, another does, and nobody sees less
// meanwhile.
func TestOneReporterAndHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		b := join(t, w.c, "node-b", "consul")
		b.lists("consul", "x", "y")
		w.wants("the first that came", "x@consul y@consul")
		a := join(t, w.c, "node-a", "consul")
		a.lists("consul", "x", "y")
		pass(5 * time.Second)
		if r := w.c.Reporter("consul"); r != "node-b" {
			t.Errorf("%s reports, want node-b: it has not gone", r)
		}
		w.watch()
		b.stop()
		synctest.Wait()
		if r := w.c.Reporter("consul"); r != "node-a" {
			t.Errorf("%s reports, want node-a", r)
		}
		pass(time.Second)
		w.wants("after the hand-over", "x@consul y@consul")
		w.wantStatus("after the hand-over", "consul OK")
		if w.fewest() != 2 {
			t.Errorf("only %d were listed at one moment", w.fewest())
		}
		a.lists("consul", "y", "z")
		w.wants("the new one's word", "y@consul z@consul")
	})
}

// The first by name is asked, and where several streams are one agent's, the latest.
func TestWhoIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		first := join(t, w.c, "node-a", "dns")
		first.lists("dns", "x")
		join(t, w.c, "node-c", "dns")
		b1 := join(t, w.c, "node-b", "dns")
		b2 := join(t, w.c, "node-b", "dns")
		b2.lists("dns", "x")
		pass(time.Second)
		first.stop()
		synctest.Wait()
		if r := w.c.Reporter("dns"); r != "node-b" {
			t.Errorf("%s reports, want node-b", r)
		}
		if b1.term("dns") != 0 || b2.term("dns") == 0 {
			t.Errorf("the older stream has term %d, the latest %d", b1.term("dns"), b2.term("dns"))
		}
		w.wants("the latest stream's word", "x@dns")
	})
}

// Whoever has not read a link completely, or cannot read it, or has had no answer for a while, is
// not asked for it; a reporter that comes to that keeps it only while nobody else can.
func TestOnlyWhoReadsMayReport(t *testing.T) {
	for what, spoil := range map[string]func(*hears){
		"it cannot read":     func(h *hears) { h.failure = "mdns: no interface eth1" },
		"it was not asked":   func(h *hears) { h.age = 5 * time.Second },
		"it has not read it": func(h *hears) { h.complete = false },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t)
				a := join(t, w.c, "node-a")
				a.change(func() {
					a.links["m"] = &hears{complete: true, services: map[string][]string{"cart": {"x"}}}
					spoil(a.links["m"])
				})
				pass(time.Second)
				if term := a.term("m"); term > 0 {
					t.Fatalf("it was asked under term %d", term)
				}
				b := join(t, w.c, "node-b", "m")
				b.lists("m", "x")
				w.wants("another's word", "x@m")
				w.wantStatus("another's word", "m OK")

				b.change(func() { spoil(b.links["m"]) })
				pass(time.Second)
				if r := w.c.Reporter("m"); r != "node-b" {
					t.Errorf("%s reports, want node-b: nobody else can", r)
				}
				w.watch()
				a.change(func() { a.links["m"].complete, a.links["m"].failure, a.links["m"].age = true, "", 0 })
				pass(time.Second)
				if r := w.c.Reporter("m"); r != "node-a" {
					t.Errorf("%s reports, want node-a: the other cannot", r)
				}
				if b.term("m") != 0 {
					t.Error("the former reporter was not told")
				}
				w.wants("in the end", "x@m")
				w.wantStatus("in the end", "m OK")
				if w.fewest() != 1 {
					t.Error("the list went empty at one moment")
				}
			})
		})
	}
}

func TestErrorsAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-3", "m")
		a.lists("m", "x")
		a.change(func() { a.links["m"].failure = "mdns: no interface eth1" })
		pass(time.Second)
		w.wantStatus("its error", "m FAILED: mdns: no interface eth1")
		a.change(func() { a.links["m"].failure = "" })
		pass(time.Second)
		w.wantStatus("mended", "m OK")

		a.change(func() { a.mute = true })
		pass(4 * time.Second)
		w.wantStatus("it says nothing any more", "m FAILED: no agent reports it; node-3 did last")
		a.change(func() { a.mute = false })
		pass(time.Second)
		w.wantStatus("it is back", "m OK")
		a.stop()
		w.wantStatus("it is gone", "m FAILED: no agent reports it; node-3 did last")
		w.wants("what it said stays", "x@m")

		b := join(t, w.c, "node-5") // which names the link no sooner than with its failure
		b.change(func() { b.links["m"] = &hears{complete: true, failure: "consul: 403 Forbidden"} })
		pass(time.Second)
		w.wantStatus("somebody hears it and cannot read", "m FAILED: node-5: consul: 403 Forbidden")
		w.wants("what stood stays", "x@m")
	})
}

// A link that is new and was not read yet is neither empty nor broken.
func TestNewLinkIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-3")
		a.change(func() { a.links["m"] = &hears{} })
		pass(5 * time.Second)
		w.wantStatus("it listens", "m PENDING")
		if w.complete() {
			t.Error("the cluster is complete though a link was never read")
		}
		a.change(func() { a.links["m"].failure = "mdns: no interface eth1" })
		pass(time.Second)
		w.wantStatus("it cannot listen", "m FAILED: node-3: mdns: no interface eth1")
	})
}

// A reporter that is asked and sends nothing does not keep the others from it.
func TestSilentReporterIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		joinSilent(t, w.c, "node-a", "m")
		pass(12 * time.Second)
		w.wantStatus("alone", "m FAILED: node-a was asked for its list and sends none")
		b := join(t, w.c, "node-b", "m")
		b.lists("m", "x")
		pass(time.Second)
		w.wants("the other is asked", "x@m")
		w.wantStatus("the other is asked", "m OK")
	})
}

func TestContributionsOfOldTermsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a, b := join(t, w.c, "node-a", "m"), join(t, w.c, "node-b", "m")
		a.lists("m", "x")
		b.lists("m", "x")
		w.wantDropped(oldTerm, 0)
		old := a.term("m")
		a.change(func() { a.links["m"].failure = "down" })
		pass(time.Second)
		late := &feedv1.Contribution{Link: "m", Term: old, Full: true, Snapshots: []*feedv1.Snapshot{snapshot("cart", []string{"z"})}}
		a.take(&feedv1.ContributeRequest{Contribution: late})
		a.take(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "no such", Term: 1, Full: true}})
		late.Term = b.term("m") // another's term is no better
		a.take(&feedv1.ContributeRequest{Contribution: late})
		w.wants("the late word", "x@m")
		w.wantDropped(oldTerm, 3)

		a.change(func() { a.links["m"].failure = "" })
		pass(time.Second)
		b.stop()
		pass(time.Second)
		late.Term = old // it reports again, and under another term
		a.take(&feedv1.ContributeRequest{Contribution: late})
		w.wants("the late word of the same agent", "x@m")
		w.wantDropped(oldTerm, 4)
	})
}

// A link that has another name is read under it before the old one is taken away.
func TestRenamedLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-a", "mdns@10.8.0.0/24")
		a.lists("mdns@10.8.0.0/24", ids(8)...)
		pass(time.Second)
		w.watch()
		a.change(func() {
			a.links["mdns@10.9.0.0/24"] = &hears{services: a.links["mdns@10.8.0.0/24"].services}
			delete(a.links, "mdns@10.8.0.0/24")
		})
		pass(3 * time.Second) // it listens
		w.wantStatus("it listens", "mdns@10.8.0.0/24 FAILED: no agent reports it; node-a did last; mdns@10.9.0.0/24 PENDING")
		a.change(func() { a.links["mdns@10.9.0.0/24"].complete = true })
		pass(20 * time.Second)
		var want []string
		for _, id := range ids(8) {
			want = append(want, id+"@mdns@10.9.0.0/24")
		}
		if w.fewest() != 8 {
			t.Errorf("only %d were listed at one moment", w.fewest())
		}
		pass(70 * time.Second)
		w.wants("under the new name", strings.Join(want, " "))
		w.wantStatus("under the new name", "mdns@10.9.0.0/24 OK")
	})
}

func TestRetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a, b := join(t, w.c, "node-a", "m", "file@node-a"), join(t, w.c, "node-b", "m", "consul")
		a.lists("m", "x")
		a.lists("file@node-a", "f")
		b.lists("m", "x")
		b.lists("consul", ids(8)...)
		pass(time.Second)

		a.change(func() { delete(a.links, "m") })
		pass(20 * time.Second)
		w.wantStatus("another names it", "consul OK; file@node-a OK; m OK")

		b.change(func() { delete(b.links, "consul") })
		pass(9 * time.Second)
		if got := w.status(); !strings.HasPrefix(got, "consul FAILED: no agent reports it") {
			t.Errorf("it may name it again: %s", got)
		}
		pass(2 * time.Second)
		w.wantStatus("its reporter does not name it", "consul FAILED 8 held: no agent names it any more: what it listed is taken back; file@node-a OK; m OK")
		if r := w.c.Reporter("consul"); r != "node-b" {
			t.Errorf("the reporter of what is held is %q", r)
		}
		pass(time.Minute)
		w.wants("after the hold", "f@file@node-a x@m")

		a.stop()
		pass(time.Hour)
		w.wants("its reporter is away", "f@file@node-a x@m")
		pass(23 * time.Hour)
		w.wants("for a day", "x@m")
		w.wantStatus("for a day", "m OK")
	})
}

// An agent that begins anew has a while to find its links again.
func TestRestartOfTheReporterRetiresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-a", "m")
		a.lists("m", ids(3)...)
		pass(time.Minute)
		w.watch()
		a.stop()
		pass(time.Minute)
		a = join(t, w.c, "node-a")
		pass(5 * time.Second)
		a.change(func() { a.links["m"] = &hears{complete: true, services: map[string][]string{"cart": ids(3)}} })
		pass(20 * time.Second)
		w.wantStatus("it is back", "m OK")
		if w.fewest() != 3 {
			t.Errorf("only %d were listed at one moment", w.fewest())
		}
	})
}

// What a registry says was removed goes at once, however much it is; what is only missing, the
// guard holds.
func TestGuardJudgesLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-a", "m")
		a.lists("m", ids(10)...)
		a.removes("m", ids(2)...)
		w.wants("eight were removed", "i00@m i01@m")
		a.lists("m", ids(10)...)
		w.watch()
		a.lists("m")
		w.wantStatus("all are missing", "m OK 10 held")
		if n := w.fewest(); n != 10 {
			t.Errorf("%d are listed", n)
		}
		// A new reporter's list is a plain one, too.
		b := join(t, w.c, "node-b", "m")
		b.lists("m", ids(1)...)
		a.stop()
		pass(time.Second)
		w.wantStatus("a new reporter", "m OK 9 held")
	})
}

// A registry that was read otherwise before is a link as soon as the store has it as one.
func TestAdoptionOfWhatWasNoLinkBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.known = []Known{{Name: "m", Reporter: "node-a"}}
		w.c.Adopt(time.Now(), w.known)
		w.in.Adopt(intake.Baseline{Registries: map[string]intake.Before{"n": {Instances: stored("n", 2)}}})
		w.start()
		w.wantStatus("at first", "m PENDING; n FAILED: it is not read here: what it listed is taken back")
		w.mu.Lock()
		w.known = append(w.known, Known{Name: "n", Reporter: "node-b"})
		w.mu.Unlock()
		pass(5 * time.Second)
		w.wantStatus("the owner has it as a link", "m FAILED: no agent reports it; node-a did last; n FAILED: no agent reports it; node-b did last")
		join(t, w.c, "node-a", "m").lists("m", "x")
		w.watch()
		pass(time.Second)
		if n := w.fewest(); n != 3 {
			t.Errorf("%d are listed, want what the link listed and one more", n)
		}
	})
}

// What the store has of links that nobody names yet is unread; what the owner drops goes here, too.
func TestAdoption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.known = []Known{{Name: "m", Reporter: "node-a"}, {Name: "n", Reporter: "node-b"}}
		w.stored = stored("n", 7)
		w.c.Adopt(time.Now(), w.known)
		w.start()
		w.wantStatus("at first", "m PENDING; n PENDING")
		pass(4 * time.Second)
		w.wantStatus("nobody came", "m FAILED: no agent reports it; node-a did last; n FAILED: no agent reports it; node-b did last")
		a := join(t, w.c, "node-a", "m")
		a.lists("m", "x")
		w.wants("one is back", "x@m")
		if w.complete() {
			t.Error("complete, though one link was not read")
		}
		if r := w.c.Reporter("n"); r != "node-b" {
			t.Errorf("the other was reported by %q", r)
		}
		w.mu.Lock()
		w.known = append(w.known[:1:1], Known{Name: "o", Reporter: "node-c"})
		w.mu.Unlock()
		pass(time.Second)
		// What the store still has of it is not thrown away unguarded.
		w.wantStatus("the owner's links", "m OK; n FAILED 7 held: no agent names it any more: what it listed is taken back; o PENDING")

		w.mu.Lock()
		w.known = append(w.known, Known{Name: "n", Reporter: "node-b"})
		w.mu.Unlock()
		pass(58 * time.Second)
		w.wantStatus("the store has it while it is held", "m OK; n FAILED 7 held: no agent names it any more: what it listed is taken back; o FAILED: no agent reports it; node-c did last")
		w.mu.Lock()
		w.known = w.known[:2:2]
		w.mu.Unlock()
		pass(2 * time.Second)
		w.wantStatus("after the hold", "m OK; o FAILED: no agent reports it; node-c did last")

		w.c.Own(true)
		w.mu.Lock()
		w.known = nil
		w.mu.Unlock()
		pass(4 * time.Second)
		if got := w.status(); !strings.Contains(got, "o FAILED") {
			t.Errorf("an owner does not follow what it wrote itself: %s", got)
		}
	})
}

// A contribution counts when all its messages are there.
func TestLargeContributions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := joinSilent(t, w.c, "node-a", "m")
		pass(time.Second)
		term := a.term("m")
		send := func(c *feedv1.Contribution) error {
			c.Link, c.Term = "m", term
			return a.x.Take(time.Now(), &feedv1.ContributeRequest{Contribution: c})
		}
		for n, c := range []*feedv1.Contribution{
			{Full: true, More: true, Snapshots: []*feedv1.Snapshot{snapshot("cart", []string{"x"})}},
			{Full: true, More: true, Snapshots: []*feedv1.Snapshot{snapshot("cart", []string{"y"})}}, // more of the same source
			{Full: true, Revision: "42", Snapshots: []*feedv1.Snapshot{snapshot("order", []string{"z"})}},
		} {
			w.wants(fmt.Sprint("before message ", n), "")
			if err := send(c); err != nil {
				t.Fatal(err)
			}
		}
		w.wants("with the last message", "x@m y@m z@m")
		if r := w.in.Status()[0]; r.Revision != "42" || r.Services != 2 || r.Instances != 3 {
			t.Errorf("the status is %+v", r)
		}

		big := snapshot("cart", nil)
		for n := range 1000 {
			big.Instances = append(big.Instances, &catalogv1.Instance{Namespace: "default", Service: "cart", Id: fmt.Sprint(n), Address: "10.0.0.1", Port: 80, Metadata: map[string]string{"pad": strings.Repeat("x", 1000)}})
		}
		for range 100 {
			if err := send(&feedv1.Contribution{More: true, Snapshots: []*feedv1.Snapshot{big}}); err != nil {
				t.Fatal(err)
			}
		}
		if a.x.bytes != 0 || len(a.x.pending) != 0 {
			t.Errorf("of 100 MB that never end it keeps %d", a.x.bytes)
		}
		w.wantStatus("100 MB that never end", "m FAILED: node-a lists more than 64 MiB of it, which is not taken: leave services out with `include` or `exclude`")
		w.wants("what stands", "x@m y@m z@m")
	})
}

// What the rest of a list was waited for is not kept for a reporter that is none any more.
func TestHandOverDropsWhatWasUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := joinSilent(t, w.c, "node-a", "m")
		pass(time.Second)
		a.take(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "m", Term: a.term("m"), Full: true, More: true, Snapshots: []*feedv1.Snapshot{snapshot("cart", ids(3))}}})
		if a.x.bytes == 0 {
			t.Fatal("nothing waits")
		}
		b := join(t, w.c, "node-b", "m")
		b.lists("m", "x")
		a.change(func() { a.links["m"].failure = "mdns: no interface eth1" })
		pass(time.Second)
		w.wants("the other's word", "x@m")
		if a.x.bytes != 0 || len(a.x.pending) != 0 {
			t.Errorf("%d bytes still wait", a.x.bytes)
		}
	})
}

// What one link lists in all is bounded, however small its updates are. One that has too much
// keeps its last list and says so; the agent's other links know nothing of it.
func TestOneLinkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-a", "m", "small")
		a.lists("m", "x")
		a.lists("small", "s")
		pass(time.Second)
		large := func(source, bytes int) []*feedv1.Snapshot {
			s := snapshot("cart", nil)
			s.Source = fmt.Sprint(source)
			s.SetAside = []*feedv1.SetAside{{Record: strings.Repeat("x", bytes)}}
			return []*feedv1.Snapshot{s}
		}
		send := func(s []*feedv1.Snapshot) {
			a.take(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "m", Term: a.term("m"), Snapshots: s}})
		}
		for range 3 { // one in the place of the other
			send(large(0, 40<<20))
		}
		w.wantStatus("a large list", "m OK; small OK")
		const tooMuch = "m FAILED: node-a lists more than 64 MiB of it, which is not taken: leave services out with `include` or `exclude`; small OK"
		for n := 0; n < 100 && a.term("m") > 0; n++ {
			send(large(n+1, 1<<20))
			synctest.Wait()
		}
		w.wantStatus("100 MB in parts", tooMuch)
		w.wantDropped(tooLarge, 1)
		a.lists("small", "s", "t")
		w.wants("what stands", "s@small t@small x@m")

		a.change(func() { a.links["m"].full = func() []*feedv1.Snapshot { return large(0, maxBytes) } })
		pass(50 * time.Second)
		w.wantDropped(tooLarge, 1) // it is not asked again and again
		pass(time.Minute)
		w.wantDropped(tooLarge, 2)
		w.wantStatus("asked again", tooMuch)
		a.change(func() { a.links["m"].full = nil; a.links["m"].services["cart"] = []string{"y"} })
		pass(time.Minute)
		w.wantStatus("a list as it should be", "m OK; small OK")
		w.wants("a list as it should be", "s@small t@small y@m")
	})
}

func TestBadInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := joinSilent(t, w.c, "node-a", "m")
		pass(time.Second)
		var many []*feedv1.Link
		for n := range maxAgentLinks + 1 {
			many = append(many, &feedv1.Link{Name: fmt.Sprint(n)})
		}
		for what, req := range map[string]*feedv1.ContributeRequest{
			"no name":           {Standing: &feedv1.Standing{Links: []*feedv1.Link{{}}}},
			"apps":              {Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: Apps}}}},
			"control character": {Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "a\nb"}}}},
			"long":              {Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: strings.Repeat("x", maxLinkName+1)}}}},
			"twice":             {Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "a"}, {Name: "a"}}}},
			"too many":          {Standing: &feedv1.Standing{Links: many}},
			"not full":          {Contribution: &feedv1.Contribution{Link: "m", Term: a.term("m")}},
			"source":            {Contribution: &feedv1.Contribution{Link: "m", Term: a.term("m"), Full: true, Snapshots: []*feedv1.Snapshot{{Source: strings.Repeat("x", maxSourceName+1)}}}},
		} {
			if err := a.x.Take(time.Now(), req); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", what, err)
			}
		}
		w.wantStatus("nothing came of it", "m PENDING")

		// One bad record spoils none of the others.
		s := snapshot("cart", []string{"x"})
		s.Instances = append(s.Instances, &catalogv1.Instance{Cluster: "west", Namespace: "default", Service: "cart", Id: "w", Address: "10.0.0.1", Port: 80},
			&catalogv1.Instance{Namespace: "default", Service: "cart", Id: "p", Address: "10.0.0.1", Port: 70000})
		a.take(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "m", Term: a.term("m"), Full: true, Snapshots: []*feedv1.Snapshot{s}}})
		w.wants("the good one", "x@m")
		if r := w.in.Status()[0]; r.SetAside != 2 {
			t.Errorf("%d were set aside, want 2: %+v", r.SetAside, r)
		}
		for what, age := range map[string]*durationpb.Duration{"none": nil, "below 0": durationpb.New(-1), "invalid": {Nanos: 2e9}} {
			st, err := readStanding(time.Now(), &feedv1.Standing{Links: []*feedv1.Link{{Name: "m", Age: age}}})
			if err != nil || st["m"].fresh {
				t.Errorf("age %s counts as fresh, error %v", what, err)
			}
		}
		for _, incarnation := range []string{"", strings.Repeat("x", maxText+1)} {
			if _, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: "n", Incarnation: incarnation}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("an incarnation of %d bytes: %v", len(incarnation), err)
			}
		}
		if _, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: "node-a", Incarnation: "other"}); status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "node-a") {
			t.Errorf("a second agent of the node: %v", err)
		}
	})
}

// An agent whose host lost its power leaves a stream that nobody closes: its next life has its place
// once nothing was heard of it for as long as what it said counts, and reports what it did.
func TestAPlaceOfWhichNothingIsHeardIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		join := func(incarnation string, want codes.Code) *Contributor {
			t.Helper()
			x, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: "node-a", Incarnation: incarnation})
			if status.Code(err) != want {
				t.Errorf("%s joins with %v, want %s", incarnation, err, want)
			}
			return x
		}
		stands := func(x *Contributor) error {
			return x.Take(time.Now(), &feedv1.ContributeRequest{Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "m", Complete: true, Age: durationpb.New(0)}}}})
		}
		old := join("i1", codes.OK)
		if err := stands(old); err != nil {
			t.Fatal(err)
		}
		if m := old.Next(); len(m.GetGrants()) != 1 || m.GetGrants()[0].GetTerm() == 0 {
			t.Fatalf("it is told %v", m)
		}
		pass(standingFor)
		join("i2", codes.AlreadyExists)
		if err := stands(old); err != nil {
			t.Fatal(err)
		}
		pass(standingFor)
		join("i2", codes.AlreadyExists)
		pass(time.Millisecond)
		again := join("i2", codes.OK)
		if err := stands(again); err != nil {
			t.Fatal(err)
		}
		if m := again.Next(); len(m.GetGrants()) != 1 || m.GetGrants()[0].GetTerm() == 0 {
			t.Errorf("the next life is told %v", m)
		}
		if err := stands(old); status.Code(err) != codes.AlreadyExists {
			t.Errorf("the old one goes on after all: %v", err)
		}
		old.Leave(time.Now())
		if got := w.c.Reporter("m"); got != "node-a" || w.c.Contributors() != 1 {
			t.Errorf("when the old one leaves, %q reports, of %d", got, w.c.Contributors())
		}
		join("i1", codes.AlreadyExists)
		again.Leave(time.Now())
		join("i1", codes.OK).Leave(time.Now())
	})
}

// Agents can make no more links than a cluster may have.
func TestLinksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for n := range maxLinks/maxAgentLinks + 2 {
			x, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: fmt.Sprint("node-", n), Incarnation: "i"})
			if err != nil {
				t.Fatal(err)
			}
			st := &feedv1.Standing{}
			for l := range maxAgentLinks {
				st.Links = append(st.Links, &feedv1.Link{Name: fmt.Sprint(n, "/", l)})
			}
			if err := x.Take(time.Now(), &feedv1.ContributeRequest{Standing: st}); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(w.in.Status()); n != maxLinks {
			t.Errorf("%d links, want %d", n, maxLinks)
		}
		w.wantDropped(tooManyLinks, 2*maxAgentLinks)
	})
}

// Each contributor is told who owns the cluster: at first, and when that changes.
func TestOwnerIsTold(t *testing.T) {
	w := newWorld(t)
	x, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: "n", Incarnation: "i"})
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []bool{false, true, false} {
		w.c.Own(own)
		<-x.Wake()
		if m := x.Next(); m == nil || m.GetOwner() != own || len(m.GetGrants()) != 0 {
			t.Errorf("told %v, want owner %t", m, own)
		}
		if m := x.Next(); m != nil {
			t.Errorf("told twice: %v", m)
		}
	}
}

// Before the first agent has said which links it has, be it none, there may be services that
// nobody knows.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		want := func(what string, ever bool, connected int) {
			t.Helper()
			synctest.Wait()
			e := false
			select {
			case <-w.c.Heard():
				e = true
			default:
			}
			if n := w.c.Contributors(); e != ever || n != connected {
				t.Errorf("%s: %t %d, want %t %d", what, e, n, ever, connected)
			}
		}
		want("nobody", false, 0)
		x, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: "n", Incarnation: "i"})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		want("it has not said a word", false, 1)
		for range 2 {
			if err := x.Take(time.Now(), &feedv1.ContributeRequest{Standing: &feedv1.Standing{}}); err != nil {
				t.Fatal(err)
			}
			want("it has none", true, 1)
		}
		x.Leave(time.Now())
		want("it is gone", true, 0)
	})
}

// A link that somebody named and nobody ever read keeps nothing: it must not keep the cluster
// from being complete for a day.
func TestALinkThatWasNeverReadIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a := join(t, w.c, "node-a", "consul")
		a.lists("consul", "x")
		a.change(func() { a.links["mdns@10.8.0.0/24"] = &hears{} })
		pass(time.Second)
		if w.complete() {
			t.Error("complete while it listens")
		}
		a.change(func() { delete(a.links, "mdns@10.8.0.0/24") }) // it has another address by now
		pass(9 * time.Second)
		w.wantStatus("it may be named again", "consul OK; mdns@10.8.0.0/24 FAILED: no agent reports it")
		pass(2 * time.Second)
		w.wantStatus("it is not", "consul OK")
		if !w.complete() {
			t.Error("not complete without it")
		}
	})
	// After a start, who owns the cluster does so with what the store names and has nothing of;
	// who does not follows it.
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.known = []Known{{Name: "never"}, {Name: "kept"}, {Name: "read", Reporter: "node-b"}}
		w.stored = stored("kept", 2)
		w.c.Adopt(time.Now(), w.known)
		w.start()
		pass(time.Minute)
		all := "kept FAILED: no agent reports it; never FAILED: no agent reports it; read FAILED: no agent reports it; node-b did last"
		w.wantStatus("another owns the cluster", all)
		w.c.Own(true)
		pass(time.Second)
		w.wantStatus("this one does", strings.Replace(all, "never FAILED: no agent reports it; ", "", 1))
	})
}

// A Run that begins while the link cannot be read waits; the first thing it publishes is the
// whole list, though what came was a part.
func TestRunBeginsWithTheWholeList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		x, err := w.c.Join(time.Now(), &feedv1.Contributor{Node: "n", Incarnation: "i"})
		if err != nil {
			t.Fatal(err)
		}
		take := func(req *feedv1.ContributeRequest) {
			t.Helper()
			if err := x.Take(time.Now(), req); err != nil {
				t.Fatal(err)
			}
		}
		take(&feedv1.ContributeRequest{Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "m", Complete: true, Age: durationpb.New(0)}}}})
		part := func(full bool, service string) *feedv1.ContributeRequest {
			return &feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "m", Term: 1, Full: full, Snapshots: []*feedv1.Snapshot{snapshot(service, []string{"x"})}}}
		}
		take(part(true, "cart"))
		pass(5 * time.Second)
		out := &sceptic{t: t}
		stop := testkit.Go(t, "link", func(ctx context.Context) error { return w.c.links["m"].Run(ctx, out) })
		synctest.Wait()
		if out.full {
			t.Error("it published what nobody had confirmed for 5 s")
		}
		take(part(false, "order"))
		if n := len(out.last.Snapshots); !out.full || n != 2 {
			t.Errorf("the first update has %d sources, want 2", n)
		}
		stop()
		take(part(false, "late")) // to nobody
	})
}
