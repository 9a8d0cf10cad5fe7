//go:build real && linux

package robustness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

const (
	callers  = 2 // at each agent
	callTime = 10 * time.Second
	// changeEvery is about how often a cluster's truth changes.
	changeEvery = 300 * time.Millisecond
	// passing is how many removals of a registry go at once, and in what time (package guard); a few
	// less are made, as what a fault loses counts, too.
	passing       = 3
	passingWindow = 10 * time.Second
)

// lastCall numbers the calls of the test binary.
var lastCall atomic.Int64

// startTraffic lets callers at every agent make calls, one after the other, and changes what is true
// in every cluster, until stop, which waits for the calls under way.
func (w *world) startTraffic(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, a := range w.agents() {
		for range callers {
			running.Go(func() { w.call(ctx, a) })
		}
	}
	for _, name := range w.names {
		running.Go(func() { w.change(ctx, w.clusters[name]) })
	}
	return func() {
		cancel()
		running.Wait()
		w.seen.calm()
	}
}

// pause waits; false says that ctx is over.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func oneOf[T any](of ...T) T { return of[rand.IntN(len(of))] }

// call makes calls at one agent until ctx is over.
func (w *world) call(ctx context.Context, a *agentProc) {
	// A connection that outlives the agent's death would be our own fault, not Farcall's.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: callTime + verdict.Grace}
	for pause(ctx, time.Duration(50+rand.IntN(150))*time.Millisecond) {
		c := w.draw(a.cluster)
		c.ID = fmt.Sprintf("c%d", lastCall.Add(1))
		w.make(client, a, c)
	}
}

// draw gives a call that has somewhere to go while all is well.
func (w *world) draw(from string) history.Call {
	c := history.Call{From: from, Service: oneOf("cart", "cart", "cart", "orders", "solo"), Timeout: callTime, Idempotent: rand.IntN(3) == 0}
	strategies := []string{"local-first", "external-first", "any", "local-only", "external-only", "broadcast", "pin"}
	if c.Service == "solo" {
		if strategies = []string{"local-first", "external-first", "any", "external-only", "pin"}; from == "zone" {
			strategies = []string{"local-first", "external-first", "any", "local-only"}
		}
	}
	if c.Strategy = oneOf(strategies...); c.Strategy == "pin" {
		c.Strategy, c.Pin = "local-first", oneOf(w.names...)
		if c.Service == "solo" {
			c.Pin = "zone"
		}
	}
	return c
}

// make makes a call and writes down what became of it.
func (w *world) make(client *http.Client, a *agentProc, c history.Call) {
	down, downs := a.down.Load(), a.downs.Load()
	c.Sent = w.rec.Now()
	resp, err := client.Do(request(a, &c))
	switch {
	case err == nil:
		answer(resp, &c)
	case down || a.down.Load() || a.downs.Load() != downs: // or it was, meanwhile
		c.Lost, c.Error = true, err.Error()
	default:
		c.Error = err.Error()
	}
	w.rec.Add(history.Event{Call: &c})
}

func request(a *agentProc, c *history.Call) *http.Request {
	method, body := http.MethodPost, io.Reader(strings.NewReader("do it once"))
	if c.Idempotent {
		method, body = http.MethodGet, nil
	}
	// It has a time limit of its own, and is not to end with the episode's traffic.
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+a.http+"/v1.0/invoke/"+c.Service+"/method/do?id="+c.ID, body)
	if err != nil {
		panic(err) // the URL is ours
	}
	req.Header.Set("farcall-timeout", c.Timeout.String())
	switch {
	case c.Pin != "":
		req.Header.Set("farcall-cluster", c.Pin)
	case c.Strategy != "local-first": // which is the default
		req.Header.Set("farcall-strategy", c.Strategy)
	}
	return req
}

// answer takes down what was answered.
func answer(resp *http.Response, c *history.Call) {
	defer resp.Body.Close()
	c.Code, c.ServedBy = resp.StatusCode, resp.Header.Get("farcall-served-by")
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		// The head came and the rest did not: nobody can say that it was answered.
		c.Code, c.Error = 0, err.Error()
		return
	}
	if c.Code < 300 {
		return
	}
	var said struct{ ErrorCode, Message string }
	switch {
	case resp.Header.Get(failedHeader) != "":
		c.Reason = history.Application
	case json.Unmarshal(body, &said) == nil && said.ErrorCode != "":
		c.Reason, c.Error = said.ErrorCode, said.Message
	case c.Strategy == "broadcast" && c.Code == http.StatusBadGateway && json.Valid(body):
		// A broadcast's answer is the list of its targets, whether they were enough or not.
		c.Reason, c.Error = "BROADCAST_FAILED", string(body)
	default:
		c.Error = string(body[:min(len(body), 300)])
	}
}

// change adds and removes instances of one cluster until ctx is over, within what the guard lets pass
// at once. A registry that does not say the truth is left alone: what it then says later cannot be told
// from what it lied about.
func (w *world) change(ctx context.Context, c *cluster) {
	var removed []time.Time
	for pause(ctx, changeEvery/2+rand.N(changeEvery)) {
		removed = slices.DeleteFunc(removed, func(at time.Time) bool { return time.Since(at) > passingWindow })
		if !c.registry.honest() {
			continue
		}
		s := services[rand.IntN(2)]
		have := c.registry.truth()[s.name]
		var missing []string
		for n := range s.pool {
			if id := idOf(c.name, s.name, n+1); !slices.Contains(have, id) {
				missing = append(missing, id)
			}
		}
		switch {
		case len(missing) > 0 && (rand.IntN(2) == 0 || len(have) < s.first):
			c.registry.put(w.apps[oneOf(missing...)].inst)
		case len(have) >= s.first && (c.name == "files" || len(removed) < passing):
			c.registry.remove(s.name, oneOf(have...))
			removed = append(removed, time.Now())
		}
	}
}
