//go:build real && unix

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// emptied is a federation whose cluster west keeps a handful of services in a Consul that a test will
// empty.
type emptied struct {
	*world
	west     nodeRegistry
	services []string
	from     []string // the clusters from which calls are made
}

func newEmptied(t *testing.T) *emptied {
	t.Helper()
	e := &emptied{services: []string{"cart"}, from: []string{"east", "west"}}
	regs := map[string]nodeRegistry{}
	e.world = newWorld(t, options{
		hold: "10m",
		registry: func(name string) registry {
			regs[name] = nodeRegistry{newConsulRegistry(t)}
			return regs[name]
		},
	}, "east", "west")
	e.west = regs["west"]
	for n := range 5 {
		name := fmt.Sprint("shop-", n+1)
		e.services = append(e.services, name)
		e.clusters["west"].start(t, name)
		e.west.putAs(name, name, e.clusters["west"].apps[name].port)
	}
	testkit.Eventually(t, e.ctx, "every service is served to both", e.all)
	e.until("west", 7, catalogv1.ClusterState_SYNCED)
	return e
}

// served makes one call that west has to answer.
func (e *emptied) served(from, service string) error {
	a, err := e.call(from, http.MethodGet, service+"/method/x", "farcall-cluster: west")
	if err == nil && (a.status != http.StatusOK || a.cluster() != "west") {
		err = fmt.Errorf("%s from %s: %d by %q: %s", service, from, a.status, a.servedBy, a.body)
	}
	return err
}

// all makes a call of every service from each cluster.
func (e *emptied) all() error {
	for _, from := range e.from {
		for _, service := range e.services {
			if err := e.served(from, service); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep makes calls all the time until the test says that it is enough: none may be lost.
func (e *emptied) keep() (enough func(what string)) {
	stop, failed := make(chan struct{}), make(chan error, 1)
	rounds := 0
	var calling sync.WaitGroup
	calling.Go(func() {
		for {
			if err := e.all(); err != nil {
				failed <- err
				return
			}
			rounds++
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	return func(what string) {
		e.t.Helper()
		close(stop)
		calling.Wait()
		select {
		case err := <-failed:
			e.t.Fatalf("%s: %v", what, err)
		default:
			e.t.Logf("%s: %d calls", what, rounds*len(e.from)*len(e.services))
		}
	}
}

// held waits until all seven instances of west are held, for the reason that their registry lost all
// of them, and gives when that ends.
func (e *emptied) held(when string) (until time.Time) {
	e.t.Helper()
	testkit.Eventually(e.t, e.ctx, when+": all of them are held", func() error {
		list, err := e.connect().ListHolds(e.ctx, &adminv1.ListHoldsRequest{Cluster: "west"})
		if err != nil {
			return err
		}
		if len(list.GetHolds()) != 7 {
			return fmt.Errorf("%v", list)
		}
		for _, h := range list.GetHolds() {
			if h.GetReason() != "catalogue" || !strings.Contains(h.GetDetail(), "all 7 instances") {
				return fmt.Errorf("%v", h)
			}
			until = h.GetUntil().AsTime()
		}
		return nil
	})
	return until
}

// restartAgent kills west's agent and lets it begin anew: it has to serve and find all that it did
// before, although its registry lists nothing.
func (e *emptied) restartAgent(when string) {
	e.t.Helper()
	e.clusters["west"].agent.Kill()
	e.clusters["west"].agent.Start()
	testkit.Eventually(e.t, e.ctx, when+": the agent serves as before", e.all)
	testkit.Eventually(e.t, e.ctx, when+": it has read its registry, and holds what that lost", func() error {
		page, err := e.get("http://" + e.clusters["west"].health + "/metrics")
		if err == nil && !strings.Contains(page, `farcall_intake_held_removals{cluster="west",registry="consul"} 7`) {
			err = errors.New("not all is held")
		}
		return err
	})
	enough := e.keep()
	pause := time.NewTimer(2 * time.Second)
	<-pause.C
	enough(when + ", beside the restarted agent")
}

// A Consul is emptied by accident while no synchronizer is there to see it; the synchronizer is killed
// again in the middle of the hold; the agent beside that Consul begins anew as well. No call is lost,
// all is held from one life to the next, and one release ends it everywhere.
func TestRealHoldsOutliveTheirProcesses(t *testing.T) {
	e := newEmptied(t)
	enough := e.keep()
	e.sync.Kill()
	e.west.empty()
	e.sync.Start()
	first := e.held("emptied while nobody looked")
	e.until("west", 7, catalogv1.ClusterState_PROTECTED)
	testkit.Eventually(t, e.ctx, "what the agent beside it holds is listed, too", func() error {
		list, err := e.connect().ListHolds(e.ctx, &adminv1.ListHoldsRequest{Cluster: "west"})
		if err != nil {
			return err
		}
		if a := list.GetAgents(); len(a) != 1 || a[0].GetRegistry() != "consul" || a[0].GetInstances() != 7 || a[0].GetFollowed() != 7 || len(a[0].GetSome()) != 7 {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	out, err := e.farcall("", "check")
	if err != nil || !strings.Contains(out, "farcall holds release west --registry consul") || !strings.Contains(out, "which these agents follow") {
		t.Errorf("%v: check says\n%s", err, out)
	}
	e.sync.Kill()
	e.sync.Start()
	if again := e.held("killed in the middle of it"); again.Before(first.Add(-time.Second)) {
		t.Errorf("the hold until %v ends at %v now", first, again)
	}
	enough("while the synchronizer came and went")

	e.restartAgent("with a synchronizer")
	e.sync.Kill()
	e.from = []string{"west"} // which need nobody else
	e.restartAgent("without one")
	e.from = []string{"east", "west"}
	e.sync.Start()
	e.held("with all of them back")
	testkit.Eventually(t, e.ctx, "every service is served to both", e.all)

	if out, err = e.farcall("", "holds", "release", "west"); err != nil || !strings.Contains(out, "cluster west: 7 holds released by ") {
		t.Fatal(out, err)
	}
	testkit.Eventually(t, e.ctx, "all are gone at both agents", func() error {
		for _, from := range e.from {
			for _, service := range e.services {
				a, err := e.call(from, http.MethodGet, service+"/method/x", "farcall-cluster: west")
				if err == nil && a.status == http.StatusOK {
					err = fmt.Errorf("%s from %s is served by %q still", service, from, a.servedBy)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	e.until("west", 0, catalogv1.ClusterState_SYNCED)

	// Nothing of it comes back with another life.
	e.sync.Kill()
	e.clusters["west"].agent.Kill()
	e.sync.Start()
	e.clusters["west"].agent.Start()
	e.until("west", 0, catalogv1.ClusterState_SYNCED)
	e.west.putAs("shop-1", "shop-1", e.clusters["west"].apps["shop-1"].port)
	testkit.Eventually(t, e.ctx, "what is registered again is back at both", func() error {
		return errors.Join(e.served("east", "shop-1"), e.served("west", "shop-1"))
	})
	for _, from := range e.from {
		if a, err := e.call(from, http.MethodGet, "shop-2/method/x"); err != nil || a.status == http.StatusOK {
			t.Errorf("shop-2 from %s: %v, %v", from, a, err)
		}
	}
}

// An agent that comes to a node beside a registry that was emptied before holds what the cluster's owner
// holds, though it never saw any of it listed.
func TestRealANewAgentBesideAnEmptiedConsul(t *testing.T) {
	e := newEmptied(t)
	e.west.empty()
	e.held("emptied")
	e.clusters["west"].agent.Kill()
	if err := os.RemoveAll(filepath.Join(e.dir, "agent-west")); err != nil {
		t.Fatal(err)
	}
	e.clusters["west"].agent.Start()
	testkit.Eventually(t, e.ctx, "the agent without a past serves", e.all)
	enough := e.keep()
	pause := time.NewTimer(2 * time.Second)
	<-pause.C
	enough("beside the new agent")
	if out, err := e.farcall("", "holds", "release", "west"); err != nil || !strings.Contains(out, "7 holds released") {
		t.Fatal(out, err)
	}
	testkit.Eventually(t, e.ctx, "all are gone there", func() error {
		a, err := e.call("west", http.MethodGet, "cart/method/x", "farcall-cluster: west")
		if err == nil && a.status == http.StatusOK {
			err = fmt.Errorf("served by %q still", a.servedBy)
		}
		return err
	})
}

// A cluster's line goes missing in the synchronizer's configuration: its list stays and is called, people
// see why, and one release deletes it. With its line it is back.
func TestRealAClusterIsLeftOut(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	file := filepath.Join(w.dir, "synchronizer.yml")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	configure := func(leaveOut string) {
		t.Helper()
		var lines []string
		for _, l := range strings.SplitAfter(string(whole), "\n") {
			if leaveOut == "" || !strings.Contains(l, "name: "+leaveOut) {
				lines = append(lines, l)
			}
		}
		w.sync.Kill()
		write(t, file, strings.Join(lines, ""))
		w.sync.Start()
	}
	configure("west")
	testkit.Eventually(t, w.ctx, "it is listed as held", func() error {
		out, err := w.farcall("", "get", "holds")
		if err == nil && (!strings.Contains(out, "unconfigured") || !strings.Contains(out, "its 2 instances of 1 service stay")) {
			err = errors.New(out)
		}
		return err
	})
	for range 20 {
		if a := w.must("east", "cart/method/x", "farcall-cluster: west"); a.status != http.StatusOK || a.cluster() != "west" {
			t.Errorf("%d by %q: %s", a.status, a.servedBy, a.body)
		}
	}
	if out, _ := w.farcall("", "check"); !strings.Contains(out, "put it back into a synchronizer's configuration, or delete it: farcall holds release west") {
		t.Errorf("check says\n%s", out)
	}
	if out, err := w.farcall("", "holds", "release", "west"); err != nil || !strings.Contains(out, "cluster west: deleted with its 2 instances by ") {
		t.Fatal(out, err)
	}
	testkit.Eventually(t, w.ctx, "no agent calls it any more", func() error {
		a, err := w.call("east", http.MethodGet, "cart/method/x", "farcall-cluster: west")
		if err == nil && a.status == http.StatusOK {
			err = fmt.Errorf("served by %q still", a.servedBy)
		}
		return err
	})
	w.reaches("east", "east")
	configure("")
	w.reaches("east", "west")
	w.reaches("west", "east")
}
