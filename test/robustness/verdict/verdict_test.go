package verdict

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// tale is a history that is made by hand: each event comes 100 ms after the one before.
type tale struct {
	now     time.Duration
	episode int
	events  []history.Event
}

func (t *tale) say(e history.Event) *tale {
	t.now += 100 * time.Millisecond
	e.At, e.Episode = t.now, t.episode
	t.events = append(t.events, e)
	return t
}

func (t *tale) wait(d time.Duration) *tale { t.now += d; return t }

func (t *tale) phase(name string) *tale {
	return t.say(history.Event{Phase: &history.Phase{Name: name}})
}

func ids(list string) []string { return strings.Fields(list) }

func (t *tale) truth(cluster, list string) *tale {
	return t.say(history.Event{Truth: &history.Truth{Cluster: cluster, Service: "cart", Instances: ids(list), Ever: ids("a b c d e f")}})
}

func (t *tale) view(who, cluster, list string) *tale {
	return t.say(history.Event{View: &history.View{Who: who, Cluster: cluster, Service: "cart", Instances: ids(list)}})
}

func (t *tale) unknown(who, cluster string) *tale {
	return t.say(history.Event{View: &history.View{Who: who, Cluster: cluster, Service: "cart", Unknown: true, Began: true}})
}

func (t *tale) fault(f history.Fault) *tale { return t.say(history.Event{Fault: &f}) }

func (t *tale) entry(e history.Entry) *tale { return t.say(history.Event{Entry: &e}) }

func (t *tale) call(c history.Call) *tale {
	if c.Sent == 0 {
		c.Sent = t.now
	}
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.From == "" {
		c.From = "vms"
	}
	c.Service = "cart"
	return t.say(history.Event{Call: &c})
}

func (t *tale) run(id, cluster, instance string) *tale {
	return t.say(history.Event{Run: &history.Run{ID: id, Cluster: cluster, Service: "cart", Instance: instance}})
}

func (t *tale) cluster(who, name, state string, age time.Duration) *tale {
	return t.say(history.Event{Cluster: &history.Cluster{Who: who, Name: name, State: state, Age: age}})
}

func (t *tale) process(p history.Process) *tale {
	p.Name = "agent vms/vms-1"
	return t.say(history.Event{Process: &p})
}

const (
	agent = "agent vms/vms-1"
	sync  = "synchronizer s1"
	slice = "/farcall/v1/x/clusters/vms/services/default/cart/0"
	four  = "a b c d"
)

// stored is one value everywhere: in the store, in the feed and on the disk.
func (t *tale) stored(revision int64, epoch, seq uint64) *tale {
	for _, who := range []string{"store", "feed s1", "disk vms/vms-1"} {
		n := history.Entry{Who: who, Stream: 1, Store: "id", Key: slice, Revision: revision, Epoch: epoch, Seq: seq}
		if who == "store" {
			n.Writer = "s1"
		}
		t.entry(n)
	}
	return t
}

// begun is a world in which all is well, at the beginning of its second episode.
func begun() *tale {
	t := &tale{episode: 1}
	t.truth("vms", four).truth("zone", four)
	for _, who := range []string{agent, sync} {
		t.view(who, "vms", four).view(who, "zone", four)
	}
	t.stored(10, 1, 1).process(history.Process{RSS: 1 << 20, Goroutines: 100, Files: 50})
	t.episode = 2
	return t
}

// well goes on in it with what every episode has.
func well() *tale {
	return begun().phase(history.Faults).stored(11, 1, 2).
		run("1", "vms", "a").call(history.Call{ID: "1", Strategy: "local-first", Code: 200, ServedBy: "vms/a"})
}

// over ends an episode in which the truth was not changed.
func (t *tale) over() []history.Event {
	t.phase(history.Healed)
	t.process(history.Process{RSS: 1 << 20, Goroutines: 110, Files: 50})
	return t.phase(history.Settled).events
}

// disturbed is a fault that callers may see.
func disturbed() *tale { return well().fault(history.Fault{Kind: "agent-killed", Callers: true}) }

// fencedBefore is a store that had its next owner in the episode before.
func fencedBefore() *tale {
	t := begun().stored(12, 2, 1)
	for i := range t.events {
		t.events[i].Episode = 1
	}
	return t.phase(history.Faults).run("1", "vms", "a").call(history.Call{ID: "1", Code: 200, ServedBy: "vms/a"}).
		entry(history.Entry{Who: "store", Store: "id", Key: slice + "1", Revision: 13, Epoch: 1, Seq: 9}).
		entry(history.Entry{Who: "feed s1", Stream: 1, Store: "id", Key: slice + "1", Revision: 13, Epoch: 1, Seq: 9})
}

// begunLate is an agent that begins anew with what it had written down before the last change.
func begunLate() *tale {
	return disturbed().say(history.Event{View: &history.View{Who: agent, Cluster: "vms", Service: "cart", Instances: ids("a b c"), Began: true}})
}

// silenced is a registry that could not be read for 8 s; by its beginning an answer is under way.
func silenced(say func(*tale)) []history.Event {
	f := history.Fault{Kind: "hang", Target: "consul", Cluster: "vms", Silences: true}
	t := well().fault(f).cluster(agent, "vms", "SYNCED", time.Second).wait(4 * time.Second)
	say(t)
	f.Ended, f.Effect = true, "hung"
	return t.wait(3 * time.Second).fault(f).over()
}

// cases are, for each promise, histories that keep it, and histories that break it and no other.
var cases = []struct {
	name   string
	events []history.Event
	want   error // nil: every promise is kept
	words  string
}{
	{"all is well", well().over(), nil, ""},

	{"I1: a list follows the truth", well().truth("vms", "a b c").view(agent, "vms", "a b c").view(sync, "vms", "a b c").over(), nil, ""},
	{"I1: one observer does not follow", well().truth("vms", "a b c").view(sync, "vms", "a b c").over(), ErrConvergence, agent + " shows cart of vms as [a b c d]"},
	{"I1: one observer comes too late", append(well().truth("vms", "a b c").view(sync, "vms", "a b c").over(), (&tale{now: time.Minute, episode: 2}).view(agent, "vms", "a b c").events...), ErrConvergence, agent},
	{"I1: an observer never shows a service", well().truth("mesh", four).view(agent, "mesh", four).over(), ErrConvergence, sync + " never showed cart of mesh"},
	{"I1: it never settles", well().phase(history.Healed).process(history.Process{Goroutines: 1}).events, ErrConvergence, "it did not"},

	{"invented: one that was there before is not", well().truth("vms", "a b c e").view(agent, "vms", "a b c d e").view(agent, "vms", "a b c e").view(sync, "vms", "a b c e").over(), nil, ""},
	{"invented: one that never was", well().view(agent, "vms", "a b c d poison").view(agent, "vms", four).over(), ErrInvented, "poison"},

	{"I2: a snapshot of another synchronizer is behind", well().entry(history.Entry{Who: "feed s1", Stream: 2, Store: "id", Key: slice, Revision: 10, Epoch: 1, Seq: 1}).stored(12, 2, 1).over(), nil, ""},
	{"I2: a stream goes back", well().entry(history.Entry{Who: "feed s1", Stream: 1, Store: "id", Key: slice, Revision: 10, Epoch: 1, Seq: 2}).stored(12, 1, 3).over(), ErrOrder, "revision 10 after 11"},
	{"I2: a stream's seq goes back", well().stored(12, 1, 3).entry(history.Entry{Who: "feed s1", Stream: 1, Store: "id", Key: slice, Revision: 13, Epoch: 1, Seq: 1}).over(), ErrOrder, "seq 1 after"},
	{"I2: an agent keeps an older epoch, of a store that was wiped", well().stored(12, 2, 1).entry(history.Entry{Who: "disk vms/vms-1", Store: "other", Key: slice, Revision: 1, Epoch: 1, Seq: 9}).over(), ErrOrder, "disk vms/vms-1"},
	{"I2: an agent that forgot begins anew", well().stored(12, 2, 1).fault(history.Fault{Kind: "agent-view-damaged", Forgets: agent, Callers: true}).entry(history.Entry{Who: "disk vms/vms-1", Store: "id", Key: slice, Revision: 12, Epoch: 1, Seq: 1}).over(), nil, ""},
	{"I2: the store takes a seq that is over", well().stored(12, 1, 3).entry(history.Entry{Who: "store", Store: "id", Key: slice, Revision: 13, Epoch: 1, Seq: 2}).entry(history.Entry{Who: "feed s1", Stream: 2, Store: "id", Key: slice, Revision: 13, Epoch: 1, Seq: 2}).over(), ErrOrder, "the store has"},

	{"I2: a new owner writes on", well().stored(12, 2, 1).over(), nil, ""},
	{"I2: an owner that is none any more writes another key", well().stored(12, 2, 1).entry(history.Entry{Who: "store", Store: "id", Key: slice + "1", Revision: 13, Epoch: 1, Seq: 9}).entry(history.Entry{Who: "feed s1", Stream: 1, Store: "id", Key: slice + "1", Revision: 13, Epoch: 1, Seq: 9}).over(), ErrFenced, "under epoch 1, after revision 12"},
	{"back: taken out and put in again", well().truth("vms", "a b c").view(agent, "vms", "a b c").truth("vms", four).view(agent, "vms", four).truth("vms", "a b c").view(agent, "vms", "a b c").view(sync, "vms", "a b c").over(), nil, ""},
	{"back: an agent follows the owner, who holds it", well().truth("vms", "a b c").view(agent, "vms", "a b c").view(agent, "vms", four).view(agent, "vms", "a b c").view(sync, "vms", "a b c").over(), nil, ""},
	{"back: late by two changes", well().truth("vms", "a b c").truth("vms", four).truth("vms", "a b c").view(agent, "vms", "a b c").view(agent, "vms", four).view(agent, "vms", "a b c").view(sync, "vms", "a b c").over(), nil, ""},
	{"back: taken out, and it comes back", well().truth("zone", "a b c").view(agent, "zone", "a b c").view(sync, "zone", "a b c").view(agent, "zone", four).view(agent, "zone", "a b c").over(), ErrBack, "shows d of cart of zone again"},
	{"back: an agent begins anew from what it had", disturbed().truth("vms", "a b c").view(agent, "vms", "a b c").view(sync, "vms", "a b c").say(history.Event{View: &history.View{Who: agent, Cluster: "vms", Service: "cart", Instances: ids(four), Began: true}}).view(agent, "vms", "a b c").over(), nil, ""},
	{"back: a lie may be believed and taken back", well().truth("vms", "a b c").view(agent, "vms", "a b c").view(sync, "vms", "a b c").fault(history.Fault{Kind: "flaps", Cluster: "vms"}).view(agent, "vms", four).view(agent, "vms", "a b c").over(), nil, ""},

	{"I2: an owner of the episode before writes under its epoch", fencedBefore().over(), ErrFenced, "under epoch 1, after revision 12"},
	{"I2: two write under one epoch", well().entry(history.Entry{Who: "store", Store: "id", Key: slice, Revision: 12, Epoch: 1, Seq: 3, Writer: "s2"}).entry(history.Entry{Who: "feed s1", Stream: 1, Store: "id", Key: slice, Revision: 12, Epoch: 1, Seq: 3}).over(), ErrFenced, "which is s1's"},

	{"I3: half may go where the truth is halved", well().truth("vms", "a b").view(agent, "vms", "a").view(agent, "vms", "a b").view(sync, "vms", "a b").fault(history.Fault{Kind: "half-list", Cluster: "vms"}).over(), nil, ""},
	{"I3: a list becomes empty", well().fault(history.Fault{Kind: "empty", Cluster: "vms"}).view(agent, "vms", "").view(agent, "vms", four).over(), ErrLoss, "shows 0 instances"},
	{"I3: a list falls below its half", well().fault(history.Fault{Kind: "empty", Cluster: "vms"}).view(sync, "vms", "a").view(sync, "vms", four).over(), ErrLoss, "shows 1 instances"},
	{"I3: the truth became empty", well().truth("vms", "").view(agent, "vms", "").view(sync, "vms", "").over(), nil, ""},
	{"I3: an agent begins anew without knowing", disturbed().unknown(agent, "zone").view(agent, "zone", four).over(), ErrLoss, "zone"},
	{"I3: one that lost what it kept may", disturbed().fault(history.Fault{Kind: "agent-view-damaged", Forgets: agent}).unknown(agent, "zone").view(agent, "zone", four).over(), nil, ""},
	{"I3: and does not say that there are none", disturbed().fault(history.Fault{Kind: "agent-view-damaged", Forgets: agent}).view(agent, "zone", "").view(agent, "zone", four).over(), ErrLoss, "zone"},

	{"vanished: one that was taken out is back", well().truth("vms", "a b c").truth("vms", four).view(agent, "vms", "a b c").view(agent, "vms", four).over(), nil, ""},
	{"vanished: one goes though the registry is not lied about", well().fault(history.Fault{Kind: "etcd-leader-killed"}).view(agent, "vms", "a b c").view(agent, "vms", four).over(), ErrVanished, "without d"},

	{"vanished: an agent that was killed had not written it down", begunLate().view(agent, "vms", four).over(), nil, ""},
	{"vanished: and never has it", begunLate().over(), ErrConvergence, "[a b c]"},

	{"I4: a lie about the own registry", well().fault(history.Fault{Kind: "half", Cluster: "vms"}).view(agent, "vms", "a b c").view(agent, "vms", four).over(), nil, ""},
	{"I4: a lie about another one", well().fault(history.Fault{Kind: "half", Cluster: "vms"}).view(agent, "zone", "a b c").view(agent, "zone", four).over(), ErrIsolation, "cart of zone without d"},

	{"I5: it takes its time and a grace", disturbed().run("2", "vms", "a").wait(5 * time.Second).call(history.Call{ID: "2", Sent: 3 * time.Second, Code: 200, ServedBy: "vms/a"}).over(), nil, ""},
	{"I5: it takes for ever", disturbed().run("2", "vms", "a").wait(time.Minute).call(history.Call{ID: "2", Sent: 3 * time.Second, Code: 200, ServedBy: "vms/a"}).over(), ErrHung, "call 2"},
	{"I5: no answer", disturbed().call(history.Call{ID: "2", Error: "reset"}).over(), ErrHung, "reset"},
	{"I5: no answer of an agent that is down", disturbed().call(history.Call{ID: "2", Lost: true}).over(), nil, ""},

	{"I5: a GET may be executed twice", disturbed().run("2", "vms", "a").run("2", "vms", "b").call(history.Call{ID: "2", Idempotent: true, Code: 200, ServedBy: "vms/b"}).over(), nil, ""},
	{"I5: a POST is", disturbed().run("2", "vms", "a").run("2", "vms", "b").call(history.Call{ID: "2", Code: 200, ServedBy: "vms/b"}).over(), ErrTwice, "executed 2 times"},
	{"I5: a lost POST is", disturbed().run("2", "vms", "a").run("2", "vms", "b").call(history.Call{ID: "2", Lost: true}).over(), ErrTwice, "executed 2 times"},
	{"I5: a broadcast is executed in each cluster", well().run("2", "vms", "a").run("2", "zone", "b").call(history.Call{ID: "2", Strategy: "broadcast", Code: 207}).over(), nil, ""},
	{"I5: a broadcast is executed twice in one", well().run("2", "vms", "a").run("2", "vms", "b").call(history.Call{ID: "2", Strategy: "broadcast", Code: 207}).over(), ErrTwice, "2 times vms"},

	{"I5: what was not executed", disturbed().call(history.Call{ID: "2", Code: 503, Reason: "NO_CONNECTION"}).over(), nil, ""},
	{"I5: what was, and is said not to be", disturbed().run("2", "vms", "a").call(history.Call{ID: "2", Code: 503, Reason: "NO_CONNECTION"}).over(), ErrNotExecuted, "was executed by vms/a"},
	{"I5: what was not, and is said to be", disturbed().call(history.Call{ID: "2", Code: 200, ServedBy: "vms/a"}).over(), ErrNotExecuted, "is said to be served"},
	{"I5: what somebody else executed", disturbed().run("2", "vms", "b").call(history.Call{ID: "2", Code: 200, ServedBy: "vms/a"}).over(), ErrNotExecuted, "executed by [vms/b]"},

	{"I5: external-only goes elsewhere", well().run("2", "zone", "a").call(history.Call{ID: "2", Strategy: "external-only", Code: 200, ServedBy: "zone/a"}).over(), nil, ""},
	{"I5: external-only stays", well().run("2", "vms", "a").call(history.Call{ID: "2", Strategy: "external-only", Code: 200, ServedBy: "vms/a"}).over(), ErrMisrouted, "external-only"},
	{"I5: local-only leaves, though nobody heard", disturbed().run("2", "zone", "a").call(history.Call{ID: "2", Strategy: "local-only", Code: 502, Reason: "OUTCOME_UNKNOWN"}).over(), ErrMisrouted, "local-only"},
	{"I5: local-first leaves without need", well().run("2", "zone", "a").call(history.Call{ID: "2", Strategy: "local-first", Code: 200, ServedBy: "zone/a"}).over(), ErrMisrouted, "though nothing was wrong"},
	{"I5: external-first stays without need", well().run("2", "vms", "a").call(history.Call{ID: "2", Strategy: "external-first", Code: 200, ServedBy: "vms/a"}).over(), ErrMisrouted, "though nothing was wrong"},
	{"I5: external-first stays where nobody else has it", well().truth("zone", "").view(agent, "zone", "").view(sync, "zone", "").run("2", "vms", "a").call(history.Call{ID: "2", Strategy: "external-first", Code: 200, ServedBy: "vms/a"}).over(), nil, ""},
	{"I5: local-first leaves in need", disturbed().run("2", "zone", "a").call(history.Call{ID: "2", Strategy: "local-first", Code: 200, ServedBy: "zone/a"}).over(), nil, ""},
	{"I5: local-first leaves where there is nobody", well().run("2", "zone", "a").call(history.Call{ID: "2", From: "files", Strategy: "local-first", Code: 200, ServedBy: "zone/a"}).over(), nil, ""},
	{"I5: a pin is not obeyed", well().run("2", "zone", "a").call(history.Call{ID: "2", Pin: "vms", Code: 200, ServedBy: "zone/a"}).over(), ErrMisrouted, "pinned to vms"},
	{"I5: another service", well().say(history.Event{Run: &history.Run{ID: "2", Cluster: "vms", Service: "orders", Instance: "a"}}).call(history.Call{ID: "2", Code: 200, ServedBy: "vms/a"}).over(), ErrMisrouted, "executed by orders"},

	{"I5: documented errors", disturbed().call(history.Call{ID: "2", Code: 502, Reason: "OUTCOME_UNKNOWN"}).call(history.Call{ID: "3", Code: 504, Reason: "DEADLINE_EXCEEDED"}).call(history.Call{ID: "4", Code: 500, Reason: history.Application}).over(), nil, ""},
	{"I5: an unknown name", disturbed().call(history.Call{ID: "2", Code: 404, Reason: "NOT_FOUND"}).over(), ErrUntyped, "404"},
	{"I5: a gateway that says nothing", disturbed().call(history.Call{ID: "2", Code: 502}).over(), ErrUntyped, "502"},
	{"I5: an error of Farcall's own that is a 500", disturbed().call(history.Call{ID: "2", Code: 500, Reason: "UNKNOWN"}).over(), ErrUntyped, "500"},

	{"I5: an error while only the store is broken", well().fault(history.Fault{Kind: "etcd-quorum-lost"}).call(history.Call{ID: "2", Code: 503, Reason: "NO_INSTANCE"}).over(), ErrUndeserved, "NO_INSTANCE"},
	{"I5: an error before anything was broken", well().call(history.Call{ID: "2", Code: 503, Reason: "NO_INSTANCE"}).fault(history.Fault{Kind: "agent-killed", Callers: true}).over(), ErrUndeserved, "NO_INSTANCE"},

	{"I5: all attempts met who is gone, while lists could not be told", well().fault(history.Fault{Kind: "store-cut"}).call(history.Call{ID: "2", Code: 503, Reason: "UNKNOWN_TARGET"}).over(), nil, ""},
	{"I5: all attempts met who is gone, and nothing kept lists from being told", well().fault(history.Fault{Kind: "registry-killed", Cluster: "vms"}).call(history.Call{ID: "2", Code: 503, Reason: "UNKNOWN_TARGET"}).over(), ErrUndeserved, "UNKNOWN_TARGET"},

	{"I5: an answer that broke off with the way that it took", disturbed().call(history.Call{ID: "2", Timeout: 10 * time.Second, Error: "unexpected EOF"}).over(), nil, ""},
	{"I5: an answer that broke off, and nothing broke it", well().call(history.Call{ID: "2", Timeout: 10 * time.Second, Error: "unexpected EOF"}).over(), ErrHung, "EOF"},
	{"I5: one that was out of time on a busy machine", well().call(history.Call{ID: "2", Code: 503, Reason: "UNREACHABLE"}).over(), nil, ""},
	{"I5: several that were out of time", well().call(history.Call{ID: "2", Code: 503, Reason: "UNREACHABLE"}).call(history.Call{ID: "3", Code: 503, Reason: "UNREACHABLE"}).call(history.Call{ID: "4", Code: 503, Reason: "UNREACHABLE"}).over(), ErrUndeserved, "UNREACHABLE"},

	{"I5: an error while it was being broken", well().call(history.Call{ID: "2", Code: 503, Reason: "DRAINING"}).fault(history.Fault{Kind: "agent-stopped", Callers: true, Since: time.Second}).over(), nil, ""},

	{"I6: a process died", well().process(history.Process{Died: "panic: x"}).over(), ErrDied, "panic: x"},
	{"I6: a busy moment", well().process(history.Process{Goroutines: 300, Files: 180, RSS: 1 << 30}).over(), nil, ""},
	{"I6: goroutines are left behind", well().process(history.Process{Goroutines: 900}).over(), ErrUnbounded, "goroutines"},
	{"I6: files are left open", well().process(history.Process{Files: 900}).over(), ErrUnbounded, "open files"},
	{"I6: memory is eaten up", well().process(history.Process{RSS: 3 << 30}).over(), ErrUnbounded, "memory"},

	{"I7: its age grows", silenced(func(t *tale) { t.cluster(sync, "vms", "STALE", 3*time.Second) }), nil, ""},
	{"I7: it is called fresh", silenced(func(t *tale) { t.cluster(sync, "vms", "SYNCED", 0) }), ErrAge, "is 0s old"},
	{"I7: it is called fresh for long", silenced(func(t *tale) { t.wait(3*time.Second).cluster(sync, "vms", "SYNCED", 4*time.Second) }), ErrAge, "SYNCED after"},
	{"I7: the last good news was held up on its way", silenced(func(t *tale) {
		t.fault(history.Fault{Kind: "feed-slow", Since: 2 * time.Second}).wait(3*time.Second).cluster(agent, "vms", "SYNCED", 2*time.Second)
	}), nil, ""},
	{"I7: another one stays fresh", silenced(func(t *tale) { t.cluster(sync, "zone", "SYNCED", 0).cluster(sync, "vms", "STALE", 4*time.Second) }), nil, ""},
	{"I7: state and age do not fit", well().cluster(agent, "vms", "SYNCED", 9*time.Second).over(), ErrAge, "9s old"},
	{"I7: nobody says anything", silenced(func(*tale) {}), ErrNothing, "how old vms was"},

	{"I8: a deletion reaches everybody", well().entry(history.Entry{Who: "store", Store: "id", Key: slice, Revision: 12, Deleted: true}).entry(history.Entry{Who: "feed s1", Stream: 1, Store: "id", Key: slice, Revision: 12, Deleted: true}).over(), nil, ""},
	{"I8: a deletion is lost", well().entry(history.Entry{Who: "store", Store: "id", Key: slice, Revision: 12, Deleted: true}).over(), ErrCoverage, "it was deleted, and it has revision 11"},
	{"I8: a change is lost", well().entry(history.Entry{Who: "store", Store: "id", Key: slice, Revision: 12, Epoch: 1, Seq: 3}).over(), ErrCoverage, "it has revision 11"},
	{"I8: a key is lost", well().entry(history.Entry{Who: "store", Store: "id", Key: slice + "1", Revision: 12, Epoch: 1, Seq: 3}).over(), ErrCoverage, "knows nothing"},
	{"I8: too much is deleted", well().entry(history.Entry{Who: "feed s1", Stream: 2, Store: "id", Key: slice, Revision: 12, Deleted: true}).over(), ErrCoverage, "told that it is deleted"},
}

func TestEachPromiseIsJudged(t *testing.T) {
	broken := map[error]bool{}
	for _, c := range cases {
		broken[c.want] = true
		t.Run(c.name, func(t *testing.T) {
			got := Judge(c.events)
			if c.want == nil {
				for _, v := range got {
					t.Error(v)
				}
				return
			}
			if len(got) == 0 {
				t.Fatalf("nothing was found, want %v", c.want)
			}
			for _, v := range got {
				if !errors.Is(v, c.want) || !strings.Contains(v.What, c.words) {
					t.Errorf("found %v\nwant %v: ... %s", v, c.want, c.words)
				}
			}
		})
	}
	for _, promise := range promises {
		if !broken[promise] {
			t.Errorf("no history breaks %v", promise)
		}
	}
}

var promises = []error{
	ErrConvergence, ErrInvented, ErrOrder, ErrBack, ErrFenced, ErrLoss, ErrVanished, ErrIsolation, ErrHung, ErrTwice, ErrNotExecuted,
	ErrMisrouted, ErrUntyped, ErrUndeserved, ErrDied, ErrUnbounded, ErrAge, ErrCoverage, ErrNothing,
}

// Where the events are missing that a promise is judged by, that is said, and it is not taken for
// kept.
func TestWhatIsNotThereIsNoProof(t *testing.T) {
	if got := Judge(nil); len(got) != 1 || !errors.Is(got[0], ErrNothing) {
		t.Errorf("of no events %v is said", got)
	}
	whole := func() []history.Event { return well().over() }
	for _, c := range []struct {
		name string
		gone func(history.Event) bool
		want string
	}{
		{"truth", func(e history.Event) bool { return e.Truth != nil }, "what is true"},
		{"views", func(e history.Event) bool { return e.View != nil }, "nobody showed"},
		{"an agent", func(e history.Event) bool { return e.View != nil && e.View.Who == agent }, "no agent"},
		{"a synchronizer", func(e history.Event) bool { return e.View != nil && e.View.Who == sync }, "no synchronizer"},
		{"calls", func(e history.Event) bool { return e.Call != nil }, "no call"},
		{"processes", func(e history.Event) bool { return e.Process != nil }, "no process"},
		{"a process in the end", func(e history.Event) bool { return e.Process != nil && e.Episode == 2 }, "agent vms/vms-1 was not looked at"},
		{"the store", func(e history.Event) bool { return e.Entry != nil && e.Entry.Who == "store" }, "the store was not read"},
		{"the feed", func(e history.Event) bool { return e.Entry != nil && e.Entry.Who == "feed s1" }, "no feed"},
		{"the disk", func(e history.Event) bool { return e.Entry != nil && e.Entry.Who == "disk vms/vms-1" }, "no disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Judge(slices.DeleteFunc(whole(), c.gone))
			if !slices.ContainsFunc(got, func(v Violation) bool { return errors.Is(v, ErrNothing) && strings.Contains(v.What, c.want) }) {
				t.Errorf("without it, %v is said; want that there is nothing to judge: %s", got, c.want)
			}
		})
	}
}

// A broken world breaks one promise a thousand times; a few of them are told, and none of the others
// is hidden by them.
func TestFewOfManyAreTold(t *testing.T) {
	w := disturbed()
	for range 100 {
		w.view(agent, "vms", "a b c d poison")
	}
	w.call(history.Call{ID: "2", Code: 404})
	got := Judge(w.view(agent, "vms", four).over())
	if n := len(got); n != most+1 || !errors.Is(got[n-1], ErrUntyped) {
		t.Errorf("%d violations: %v", n, got)
	}
}

// FuzzJudge: no history that can be read makes it panic, and what it finds is in order of time.
func FuzzJudge(f *testing.F) {
	for _, c := range cases {
		var b bytes.Buffer
		for _, e := range c.events {
			line, err := json.Marshal(e)
			if err != nil {
				f.Fatal(err)
			}
			b.Write(append(line, '\n'))
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		events, err := history.Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		found := Judge(events)
		if !slices.IsSortedFunc(found, func(a, b Violation) int { return cmp.Compare(a.At, b.At) }) {
			t.Errorf("not in order: %v", found)
		}
	})
}
