//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
)

// fileKinds are the faults of a registry that is a file.
func fileKinds(takes []string) []kind {
	silent := 5 * time.Second
	spoilt := func(spoil func(text string) string) func(*fileRegistry) {
		return func(f *fileRegistry) { f.lie(spoil) }
	}
	return []kind{
		{name: "file-cut", matrix: "F18", takes: takes, begin: fileFault(false, spoilt(func(text string) string { return text[:len(text)/2] + "\n    - {id: [" }))},
		{name: "file-emptied", matrix: "F17", takes: takes, least: silent, begin: fileFault(true, spoilt(func(string) string { return "" }))},
		{name: "file-without-services", matrix: "F17", takes: takes, begin: fileFault(false, spoilt(func(string) string { return "service: []\n" }))},
		{name: "file-garbage", matrix: "F19", takes: takes, begin: fileFault(false, spoilt(func(text string) string {
			return text + "  - {name: \"\xff\xfe\", instances: [{id: a, address: 169.254.1.1, port: 70000}]}\n"
		}))},
		{name: "file-gone", matrix: "F21", takes: takes, least: silent, begin: fileFault(true, (*fileRegistry).vanish)},
	}
}

// fileFault spoils the file. That its readers saw it is told by a synchronizer, which names what is
// wrong with it, or, while that cannot be asked, by the log of an agent beside it.
func fileFault(silences bool, spoil func(*fileRegistry)) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
		c := w.clusters["files"]
		f := c.registry.(*fileRegistry)
		logged := map[*agentProc]int{}
		for _, a := range c.agents {
			logged[a] = len(a.logged())
		}
		spoil(f)
		return history.Fault{Target: f.path, Cluster: "files", Silences: silences}, func(ctx context.Context) (string, error) {
			effect := ""
			for range 50 { // the file is looked at several times a second
				effect = w.complaint(ctx, "files")
				for a, n := range logged {
					if log := a.logged(); effect == "" && strings.Contains(log[min(n, len(log)):], "registry cannot be read") {
						effect = a.name + " could not read it"
					}
				}
				if effect != "" || !pause(ctx, 100*time.Millisecond) {
					break
				}
			}
			f.mend()
			return effect, nil
		}, nil
	}
}

// logged is all that the agent wrote into its log.
func (a *agentProc) logged() string {
	b, err := os.ReadFile(a.proc.LogFile())
	if err != nil {
		return ""
	}
	return string(b)
}

// complaint gives what any synchronizer says is wrong with the registry of a cluster.
func (w *world) complaint(ctx context.Context, cluster string) string {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	for _, s := range w.synchronizers {
		resp, err := adminv1.NewAdminClient(s.conn).ListClusters(ctx, &adminv1.ListClustersRequest{})
		if err != nil {
			continue
		}
		for _, c := range resp.GetClusters() {
			for _, r := range c.GetRegistries() {
				if c.GetName() == cluster && r.GetState() == storev1.RegistryStatus_FAILED {
					return fmt.Sprintf("%.100q", r.GetLastError())
				}
			}
		}
	}
	return ""
}

// applicationKinds are the faults of applications that registries know nothing of.
func applicationKinds() []kind {
	takes := []string{"applications"}
	return []kind{
		{name: "application-errors", matrix: "F27", takes: takes, least: time.Second, begin: applicationMood(func(rnd *rand.Rand) *mood {
			return &mood{fail: func() bool { return rand.IntN(2) == 0 }}
		})},
		{name: "application-slow", matrix: "F27", takes: takes, least: time.Second, begin: applicationMood(func(rnd *rand.Rand) *mood {
			return &mood{slow: time.Duration(200+rnd.IntN(800)) * time.Millisecond}
		})},
		{name: "application-gone", matrix: "F27", takes: takes, least: time.Second, begin: applicationGone},
	}
}

// anApplication gives one that a registry lists now.
func (w *world) anApplication(rnd *rand.Rand) *application {
	name := w.names[rnd.IntN(len(w.names))]
	ids := w.clusters[name].registry.truth()["cart"]
	return w.apps[ids[rnd.IntN(len(ids))]]
}

func applicationMood(draw func(*rand.Rand) *mood) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		a := w.anApplication(rnd)
		before := a.bad.Load()
		m := draw(rnd)
		a.mood.Store(m)
		return history.Fault{Target: a.id, Callers: m.fail != nil}, func(context.Context) (string, error) {
			a.mood.Store(nil)
			if n := a.bad.Load() - before; n > 0 {
				return fmt.Sprintf("%d calls felt it", n), nil
			}
			return "", nil
		}, nil
	}
}

// applicationGone lets one die while its registry goes on listing it. A call that it was executing, or
// that was just sent to it over a connection that it had, is of unknown outcome.
func applicationGone(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	a := w.anApplication(rnd)
	a.stop()
	return history.Fault{Target: a.id, Callers: true}, func(context.Context) (string, error) {
		testkit.Eventually(w.t, testkit.Context(w.t), a.id+" listens again", func() error {
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", a.port))
			if err == nil {
				a.serve(l)
			}
			return err
		})
		return "nobody listened", nil
	}, nil
}

// flooded is of how many instances a flood is.
const flooded = 400

// flood lets a registry list hundreds of instances of a service that nobody calls, until stop.
func (w *world) flood(name string, meta string) (stop func()) {
	node := w.clusters[name].agents[0].node
	var list []entry
	for n := range flooded {
		list = append(list, entry{Node: node, ID: fmt.Sprint("flood-", n), Service: "flood", Address: "127.0.0.1", Port: 9, Status: "passing", Index: 1 << 20})
	}
	if meta != "" {
		list[0].Meta = map[string]string{"big": meta}
	}
	switch r := w.clusters[name].registry.(type) {
	case *consul:
		r.add(list)
		return func() { r.add(nil) }
	case *fileRegistry:
		text := "  - name: flood\n    instances:\n"
		for _, e := range list {
			text += fmt.Sprintf("      - {id: %s, address: %s, port: %d, node: %s, metadata: {big: \"%s\"}}\n", e.ID, e.Address, e.Port, e.Node, e.Meta["big"])
		}
		r.add(text)
		return func() { r.add("") }
	}
	return func() {}
}

// registryFlood lets a registry list hundreds of instances that nobody calls, in half of the cases one
// of them with metadata that nobody can want.
func registryFlood(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	name := w.names[rnd.IntN(len(w.names))]
	how, meta := fmt.Sprint(flooded, " instances"), ""
	if rnd.IntN(2) == 0 {
		how += ", one of them with 700 KiB of metadata"
		meta = strings.Repeat("m", 700<<10)
	}
	stop := w.flood(name, meta)
	return history.Fault{Target: name + ": " + how, Cluster: name}, func(ctx context.Context) (string, error) {
		defer stop()
		within, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		for _, s := range w.synchronizers {
			resp, err := adminv1.NewAdminClient(s.conn).ListInstances(within, &adminv1.ListInstancesRequest{Cluster: name, Service: "flood"})
			if n := len(resp.GetInstances()); err == nil && n > flooded/2 {
				return fmt.Sprintf("%s lists %d of them", s.id, n), nil
			}
		}
		return "", nil
	}, nil
}

// bigChange puts some hundred instances into a cluster's registry at once, and gives what takes them
// out again.
func (w *world) bigChange(_ context.Context, cluster string, _ *rand.Rand) (undo func(context.Context) error, err error) {
	stop := w.flood(cluster, "")
	return func(context.Context) error { stop(); return nil }, nil
}
