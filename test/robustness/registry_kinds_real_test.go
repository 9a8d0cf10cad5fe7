//go:build real && linux

package robustness

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// longestLie is how long a registry lies about what there is; then it says the truth, whether its
// fault is over or not, since a removal that is not taken back for guard.hold is believed.
const longestLie = 3 * time.Second

// registryKinds are the faults of registries, of applications, and of values in etcd, and of agents that
// have nobody else.
func registryKinds() []kind {
	takes := []string{"registries"}
	// A process that begins anew lets as much pass once more, and half a list bears that only once.
	alone := []string{"registries", "synchronizers", "agents"}
	silent := 5 * time.Second // or nobody could tell by the age
	kinds := []kind{
		{name: "registry-empty", matrix: "F17", takes: takes, begin: consulLie(empty)},
		{name: "registry-says-nothing", matrix: "F17", takes: takes, begin: consulLie(saysNothing)},
		{name: "registry-half-list", matrix: "F18", takes: alone, begin: consulLie(halfList)},
		{name: "registry-cut-answers", matrix: "F18", takes: takes, begin: consulLie(cutAnswers)},
		{name: "registry-one-service-fails", matrix: "F18", takes: takes, begin: consulLie(oneServiceFails)},
		{name: "registry-garbage", matrix: "F19", takes: takes, begin: consulLie(garbage)},
		{name: "registry-flaps", matrix: "F20", takes: alone, least: time.Second, begin: registryFlaps},
		{name: "registry-all-unhealthy", matrix: "F28", takes: takes, least: time.Second, begin: consulLie(allUnhealthy)},
		{name: "registry-reset", matrix: "F17", takes: alone, begin: registryReset},
		{name: "registry-hangs", matrix: "F21", takes: takes, least: silent, begin: consulSilence(hangs)},
		{name: "registry-slow-loris", matrix: "F21", takes: takes, least: silent, begin: consulSilence(slowLoris)},
		{name: "registry-errors", matrix: "F21", takes: takes, least: silent, begin: consulSilence(refuses)},
		{name: "registry-killed", matrix: "F21", takes: takes, least: silent, begin: registryKilled},
		{name: "registry-flood", matrix: "F33", takes: alone, least: 2 * time.Second, begin: registryFlood},
	}
	kinds = append(kinds, fileKinds(takes)...)
	kinds = append(kinds, applicationKinds()...)
	kinds = append(kinds, aloneKinds()...)
	return append(kinds, valueKinds()...)
}

// aConsul gives one of the clusters whose registry is Consul.
func (w *world) aConsul(rnd *rand.Rand) (string, *consul) {
	var names []string
	for _, name := range w.names {
		if _, ok := w.clusters[name].registry.(*consul); ok {
			names = append(names, name)
		}
	}
	name := names[rnd.IntN(len(names))]
	return name, w.clusters[name].registry.(*consul)
}

// consulLie lets a Consul say something else than the truth, for longestLie at most.
func consulLie(draw func(*consul, *rand.Rand) (lie, string)) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		name, c := w.aConsul(rnd)
		l, how := draw(c, rnd)
		before := c.told.Load()
		c.lie(l, nil)
		mend := time.AfterFunc(longestLie, c.mend)
		return history.Fault{Target: name + ": " + how, Cluster: name}, func(context.Context) (string, error) {
			if mend.Stop() {
				c.mend()
			}
			return c.effect(before), nil
		}, nil
	}
}

// effect counts the answers that were not the truth since before; readers are four at least.
func (s *consul) effect(before int64) string {
	if n := s.told.Load() - before; n > 0 {
		return fmt.Sprintf("%d answers were not the truth", n)
	}
	return ""
}

func empty(*consul, *rand.Rand) (lie, string) {
	return lie{show: func([]entry) []entry { return nil }}, "it lists nothing but itself"
}

func saysNothing(*consul, *rand.Rand) (lie, string) {
	return lie{body: func(_ string, b []byte) []byte {
		if bytes.HasPrefix(b, []byte("{")) {
			return []byte("{}")
		}
		return []byte("[]")
	}}, "its lists are empty, itself included"
}

// halfList leaves two thirds of one service out: more than its half, and than the guard lets pass.
func halfList(_ *consul, rnd *rand.Rand) (lie, string) {
	keep := rnd.IntN(3)
	return lie{show: func(all []entry) []entry {
		n := 0
		return slices.DeleteFunc(all, func(e entry) bool {
			n++
			return e.Service == "cart" && n%3 != keep
		})
	}}, "two of three instances of cart are left out"
}

// cutAnswers ends some answers in their middle, with the length that the whole has or their own.
func cutAnswers(_ *consul, rnd *rand.Rand) (lie, string) {
	path := []string{"/v1/catalog/services", "/v1/health/state/any", "/v1/health/service/", "/v1/catalog/node"}[rnd.IntN(4)]
	return lie{body: func(at string, b []byte) []byte {
		if !strings.HasPrefix(at, path) {
			return b
		}
		return b[:len(b)/2]
	}}, "answers to " + path + " are cut in the middle"
}

func oneServiceFails(_ *consul, rnd *rand.Rand) (lie, string) {
	name := []string{"cart", "orders"}[rnd.IntN(2)]
	return lie{
		// Something moved, so that it is read.
		show: func(all []entry) []entry {
			for i := range all {
				all[i].Index += 1 << 20
			}
			return all
		},
		answer: func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v1/health/service/"+name {
				return false
			}
			http.Error(w, "rpc error: leadership lost", http.StatusInternalServerError)
			return true
		},
	}, name + " cannot be read"
}

// badUTF8 stands in for bytes that JSON has no word for.
const badUTF8 = "NOT-UTF-8"

// garbage lists records that cannot be right beside those that are.
func garbage(s *consul, rnd *rand.Rand) (lie, string) {
	node := s.nodes[0]
	bad := func(id, address string, port int) entry {
		return entry{node, id, "cart", address, port, "passing", 1 << 20, nil}
	}
	long := strings.Repeat("n", 1<<20)
	records := []struct {
		how string
		of  []entry
	}{
		{"ports that are none", []entry{bad("bad-port", "127.0.0.1", 70000), bad("bad-port-2", "127.0.0.1", -1)}},
		{"addresses that nobody has", []entry{bad("bad-address", "169.254.169.254", 80), bad("bad-address-2", "224.0.0.1", 80), bad("bad-address-3", "0.0.0.0", 80)}},
		{"names that are no text", []entry{bad("bad-id-"+badUTF8, "127.0.0.1", 0), {node, "bad-name", "cart-" + badUTF8, "127.0.0.1", 80, "passing", 1 << 20, nil}}},
		{"a name of a million letters", []entry{{node, "bad-long", long, "127.0.0.1", 80, "passing", 1 << 20, nil}, bad(long, "127.0.0.1", 80)}},
		{"names that are none", []entry{{node, "bad-dots", "..", "127.0.0.1", 80, "passing", 1 << 20, nil}, bad("", "127.0.0.1", 80)}},
	}
	r := records[rnd.IntN(len(records))]
	return lie{
		show: func(all []entry) []entry { return append(all, r.of...) },
		body: func(_ string, b []byte) []byte { return bytes.ReplaceAll(b, []byte(badUTF8), []byte("\xff\xfe")) },
	}, r.how
}

func allUnhealthy(*consul, *rand.Rand) (lie, string) {
	return lie{show: func(all []entry) []entry {
		for i := range all {
			all[i].Status = "critical"
			all[i].Index += 1 << 20
		}
		return all
	}}, "every check is critical"
}

// registryFlaps lets one instance come and go twenty times a second.
func registryFlaps(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	name, c := w.aConsul(rnd)
	id := c.truth()["cart"][0]
	before := c.told.Load()
	without := lie{show: func(all []entry) []entry {
		return slices.DeleteFunc(all, func(e entry) bool { return e.ID == id })
	}}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.mend()
		for there := false; pause(ctx, 25*time.Millisecond); there = !there {
			if there {
				// To the truth, which is a lie in so far as it does not stay.
				c.lie(lie{show: func(all []entry) []entry { return all }}, nil)
			} else {
				c.lie(without, nil)
			}
		}
	}()
	return history.Fault{Target: name + ": " + id, Cluster: name}, func(context.Context) (string, error) {
		cancel()
		<-done
		return c.effect(before), nil
	}, nil
}

// registryReset lets Consul come back as another one, with an older index and half of what it knew or
// nothing of it, until it has learnt it again.
func registryReset(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	name, c := w.aConsul(rnd)
	all := rnd.IntN(2) == 0
	before := c.told.Load()
	c.lie(lie{show: func(list []entry) []entry {
		return slices.DeleteFunc(list, func(e entry) bool { return all || e.Service != "cart" })
	}}, func() {
		c.index = 100 + c.index%50
		c.server += "'"
	})
	mend := time.AfterFunc(longestLie, c.mend)
	return history.Fault{Target: name, Cluster: name}, func(context.Context) (string, error) {
		if mend.Stop() {
			c.mend()
		}
		return c.effect(before), nil
	}, nil
}

// consulSilence lets nothing be learnt from a Consul any more.
func consulSilence(answer func(*consul, context.Context) lie) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		name, c := w.aConsul(rnd)
		// What hangs ends with the fault, and not with whoever asked.
		ctx, cancel := context.WithCancel(context.Background())
		before := c.told.Load()
		c.lie(answer(c, ctx), nil)
		return history.Fault{Target: name, Cluster: name, Silences: true}, func(context.Context) (string, error) {
			c.mend()
			cancel()
			return c.effect(before), nil
		}, nil
	}
}

func hangs(_ *consul, ctx context.Context) lie {
	return lie{answer: func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-ctx.Done():
		case <-r.Context().Done():
		}
		return true
	}}
}

// slowLoris answers, one byte at a time.
func slowLoris(_ *consul, ctx context.Context) lie {
	return lie{answer: func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Consul-Index", "100000")
		for pause(ctx, 100*time.Millisecond) && r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
		}
		return true
	}}
}

func refuses(*consul, context.Context) lie {
	return lie{answer: func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return true
	}}
}

func registryKilled(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	name, c := w.aConsul(rnd)
	c.stop()
	return history.Fault{Target: name, Cluster: name, Silences: true}, func(context.Context) (string, error) {
		c.start()
		return "nobody listened", nil
	}, nil
}
