//go:build real && linux

package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
)

// agentKinds are the faults of agents and of their ways to the synchronizers.
func agentKinds() []kind {
	agents := []string{"agents"}
	feed := []string{"feed"}
	return []kind{
		{name: "agent-killed", matrix: "F24", takes: agents, begin: agentKilled},
		{name: "agent-stopped", matrix: "F25", takes: agents, begin: agentStopped},
		{name: "agent-paused", matrix: "F12", takes: agents, least: 3 * time.Second, begin: agentPaused},
		{name: "agent-view-damaged", matrix: "F40", takes: agents, begin: agentViewDamaged},
		{name: "agent-claimed-twice", matrix: "F44", takes: []string{"agents", "feed", "synchronizers"}, least: 2 * time.Second, begin: agentClaimedTwice},
		{name: "agents-all-killed", matrix: "F38", takes: []string{"agents", "feed"}, begin: allAgentsKilled},
		{name: "feed-broken-off", matrix: "F11", takes: feed, least: 2 * time.Second, begin: feedFault(false, func(rnd *rand.Rand) weather {
			return weather{lifetime: 100 + rnd.IntN(2000)}
		})},
		{name: "feed-silent", matrix: "F12", takes: feed, least: 4 * time.Second, begin: feedFault(true, always(blackHole))},
		{name: "feed-slow", matrix: "F12", takes: feed, least: 2 * time.Second, begin: feedFault(true, func(rnd *rand.Rand) weather {
			return weather{rate: 2000 + rnd.IntN(20000)}
		})},
		{name: "feed-cut", matrix: "F14", takes: feed, least: 2 * time.Second, begin: feedFault(false, always(weather{refuse: true}))},
		{name: "feed-lost-on-the-way", matrix: "F11", takes: feed, least: 2 * time.Second, begin: feedFault(false, always(weather{back: true, lost: true}))},
	}
}

func (w *world) anAgent(rnd *rand.Rand) *agentProc {
	all := w.agents()
	return all[rnd.IntN(len(all))]
}

// goDown says that it is about to be down.
func (a *agentProc) goDown() {
	a.downs.Add(1)
	a.down.Store(true)
}

func (a *agentProc) kill() {
	a.goDown()
	a.proc.Kill()
}

// start starts it again and waits until it takes calls.
func (a *agentProc) start(ctx context.Context, w *world) {
	a.proc.Start()
	a.ready(ctx, w)
}

// ready waits until it takes calls.
func (a *agentProc) ready(ctx context.Context, w *world) {
	testkit.Eventually(w.t, testkit.Context(w.t), a.name+" takes calls", func() error {
		resp, err := page(ctx, "http://"+a.http+"/v1.0/healthz")
		if err != nil {
			if ended, how := a.proc.Ended(); ended {
				w.t.Fatalf("agent %s ended at its start: %v\n%s", a.name, how, a.proc.Log())
			}
			return fmt.Errorf("%w %s", err, resp)
		}
		return nil
	})
	a.down.Store(false)
}

func agentKilled(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	a := w.anAgent(rnd)
	a.kill()
	return history.Fault{Target: a.name, Callers: true}, func(ctx context.Context) (string, error) {
		a.start(ctx, w)
		return "it was gone", nil
	}, nil
}

// agentStopped stops an agent in good order, as an update does, and starts it again.
func agentStopped(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	a := w.anAgent(rnd)
	a.goDown()
	a.proc.Term()
	if err := a.proc.Wait(); err != nil {
		return history.Fault{}, nil, fmt.Errorf("agent %s: it was asked to stop: %w", a.name, err)
	}
	return history.Fault{Target: a.name, Callers: true}, func(ctx context.Context) (string, error) {
		a.start(ctx, w)
		return "it stopped in good order", nil
	}, nil
}

func agentPaused(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	a := w.anAgent(rnd)
	a.goDown()
	a.proc.Pause()
	return history.Fault{Target: a.name, Callers: true}, func(ctx context.Context) (string, error) {
		_, err := page(ctx, "http://"+a.http+"/v1.0/healthz")
		a.proc.Resume()
		a.down.Store(false)
		if err == nil {
			return "", nil
		}
		return "it did not answer", nil
	}, nil
}

// savedView is where an agent keeps its view.
func (a *agentProc) savedView() string { return filepath.Join(a.dataDir, "view") }

// agentViewDamaged spoils what an agent kept on its disk while it is down: it must start like a new
// one, and must not serve what is not its own.
func agentViewDamaged(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	a := w.anAgent(rnd)
	a.kill()
	f := history.Fault{Target: a.name, Callers: true, Forgets: "agent " + a.name}
	whole, err := os.ReadFile(a.savedView())
	if err != nil || len(whole) < 100 {
		return f, func(ctx context.Context) (string, error) {
			a.start(ctx, w)
			return "", nil // it had none yet
		}, nil
	}
	how := ""
	switch rnd.IntN(3) {
	case 0:
		how, whole = "cut in the middle", whole[:len(whole)/2]
	case 1:
		at := 40 + rnd.IntN(len(whole)-40)
		how = fmt.Sprint("a bit flipped at ", at)
		whole[at] ^= 1 << rnd.IntN(8)
	case 2:
		other := a
		for other == a {
			other = w.anAgent(rnd)
		}
		how = "that of " + other.name
		if whole, err = os.ReadFile(other.savedView()); err != nil {
			return f, nil, err
		}
	}
	if err := os.WriteFile(a.savedView(), whole, 0o600); err != nil {
		return f, nil, err
	}
	f.Target += ": " + how
	return f, func(ctx context.Context) (string, error) {
		a.start(ctx, w)
		text, err := patientPage(ctx, "http://"+a.metrics+"/metrics")
		if err != nil || !strings.Contains(text, "farcall_uplink_bad_views_total 1") {
			return "", err
		}
		return "its view was " + how + ", and not used", nil
	}, nil
}

// agentClaimedTwice starts a second agent that takes itself for the same node.
func agentClaimedTwice(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	a := w.anAgent(rnd)
	twin := w.newTwin(a)
	if len(twin.feed) != 1 {
		return history.Fault{Target: a.name}, func(context.Context) (string, error) { return "", nil }, nil // it is between two
	}
	write(w.t, twin.config, twin.text(w))
	d := testkit.NewDaemon(w.t, filepath.Join(bin, "agent"), "twin-"+a.node, "--config", twin.config)
	d.Start()
	return history.Fault{Target: a.name}, func(ctx context.Context) (string, error) {
		// It is a process like any other, and on a busy machine it takes its time.
		refused := func() error {
			if !strings.Contains(d.Log(), "another agent reports") {
				return errors.New("its log does not say so")
			}
			return nil
		}
		testkit.Eventually(w.t, testkit.Context(w.t), "the second agent of "+a.name+" is refused", refused)
		d.Kill()
		if bad := d.Complaint(); bad != "" {
			return "", fmt.Errorf("the second agent's log says %q", bad)
		}
		return "a second agent was refused", nil
	}, nil
}

// newTwin gives an agent of the same name on other ports, without a memory. It goes to the synchronizer
// that the first one follows, which is the one that knows of it.
func (w *world) newTwin(a *agentProc) *agentProc {
	twin := &agentProc{
		cluster: a.cluster, node: a.node, name: a.name + "'",
		http: loopback(w.t), grpc: loopback(w.t), metrics: loopback(w.t), internal: loopback(w.t),
		config: strings.TrimSuffix(a.config, ".yml") + "-twin.yml", dataDir: a.dataDir + "-twin",
	}
	for _, l := range a.feed {
		if l.open() > 0 {
			twin.feed = append(twin.feed, l)
		}
	}
	twin.peers = &link{addr: twin.internal}
	return twin
}

func allAgentsKilled(_ context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	for _, a := range w.agents() {
		a.kill()
	}
	return history.Fault{Target: "all", Callers: true}, func(ctx context.Context) (string, error) {
		for _, a := range w.agents() {
			a.proc.Start()
		}
		for _, a := range w.agents() {
			a.ready(ctx, w)
		}
		return "all were gone, and came at once", nil
	}, nil
}

// feedFault makes weather on the ways of one agent, or of all, to the synchronizers.
func feedFault(one bool, draw func(*rand.Rand) weather) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		whose := w.agents()
		target := "all agents"
		if one {
			a := w.anAgent(rnd)
			whose, target = []*agentProc{a}, a.name
		}
		var links []*link
		for _, a := range whose {
			links = append(links, a.feed...)
		}
		f, end := spoil(links, draw(rnd))
		f.Target = target
		return f, end, nil
	}
}
