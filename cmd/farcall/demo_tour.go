package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// calls is how often the tour calls under each strategy.
const calls = 6

// expectation is where the calls of one strategy may be served, from east, and which status
// they get.
type expectation struct {
	strategy string
	clusters []string // any of these; for broadcast, exactly these succeed
	status   int
	failed   string // broadcast: the cluster that is named as failed
}

// tour starts everything, shows it, and reports whether every call went where it should.
func (d *demoWorld) tour(ctx context.Context) error {
	began := time.Now()
	if err := d.up(ctx); err != nil {
		return err
	}
	d.say("Farcall demo: the service cart in three clusters of one node each.")
	for _, c := range d.clusters {
		d.say("  %-5s instances: %d, listed by %s", c.name, len(c.apps), c.registry)
	}
	d.say("Up after %s; an application in east calls cart.", time.Since(began).Round(time.Millisecond))
	all := []expectation{
		{"local-first", []string{"east"}, 200, ""},
		{"external-first", []string{"west", "edge"}, 200, ""},
		{"local-only", []string{"east"}, 200, ""},
		{"external-only", []string{"west", "edge"}, 200, ""},
		{"broadcast", []string{"east", "west", "edge"}, 207, ""},
		{"any", []string{"east", "west", "edge"}, 200, ""},
	}
	for _, chapter := range []func(context.Context, []expectation) error{
		func(ctx context.Context, all []expectation) error {
			d.say("\nAll clusters are up")
			return d.checkAll(ctx, all)
		},
		d.policyChapter, d.clusterAway, d.listAway, d.synchronizerAway,
	} {
		if err := chapter(ctx, all); err != nil {
			return err
		}
	}
	if d.missed > 0 {
		return fmt.Errorf("%w: %d of them", errDemo, d.missed)
	}
	d.say("\nEvery call went where its strategy says.")
	return nil
}

// up starts all processes and waits until each cluster can be called from east.
func (d *demoWorld) up(ctx context.Context) error {
	if err := d.sync.start(); err != nil {
		return err
	}
	for _, c := range d.clusters {
		if err := c.agent.start(); err != nil {
			return err
		}
	}
	for _, c := range d.clusters {
		if err := d.reachable(ctx, c.name); err != nil {
			return err
		}
	}
	return nil
}

func (d *demoWorld) reachable(ctx context.Context, cluster string) error {
	return within(ctx, 30*time.Second, "calling "+cluster, func(ctx context.Context) error {
		a, err := d.call(ctx, map[string]string{"farcall-cluster": cluster})
		if err == nil && (a.status != http.StatusOK || a.cluster() != cluster) {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
}

func (d *demoWorld) clusterAway(ctx context.Context, all []expectation) error {
	west := d.clusters[1]
	west.agent.kill()
	d.say("\nThe node of west is killed; its instances are still listed")
	err := d.checkAll(ctx, []expectation{
		all[0], all[2],
		{"external-first", []string{"edge"}, 200, ""},
		{"external-only", []string{"edge"}, 200, ""},
		{"broadcast", []string{"east", "edge"}, 502, "west"},
		{"any", []string{"east", "edge"}, 200, ""},
	})
	if err != nil {
		return err
	}
	if err := west.agent.start(); err != nil {
		return err
	}
	if err := d.reachable(ctx, "west"); err != nil {
		return err
	}
	d.say("\nwest is back")
	return d.checkAll(ctx, all)
}

func (d *demoWorld) listAway(ctx context.Context, all []expectation) error {
	if err := d.list(false); err != nil {
		return err
	}
	d.say("\nSomebody empties the list of cart in east's registry")
	err := within(ctx, 10*time.Second, "the edit", func(ctx context.Context) error {
		a, err := d.call(ctx, nil)
		if err == nil && a.cluster() == "east" {
			err = fmt.Errorf("still served by %s", a.servedBy)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = d.checkAll(ctx, []expectation{
		{"local-first", []string{"west", "edge"}, 200, ""},
		all[1],
		{"local-only", nil, 503, ""},
		all[3],
		{"broadcast", []string{"west", "edge"}, 207, ""},
		{"any", []string{"west", "edge"}, 200, ""},
	})
	if err != nil {
		return err
	}
	if err := d.list(true); err != nil {
		return err
	}
	return d.reachable(ctx, "east")
}

func (d *demoWorld) synchronizerAway(ctx context.Context, all []expectation) error {
	d.sync.kill()
	d.say("\nThe synchronizer and its store are killed; calls go on")
	if err := d.checkAll(ctx, all); err != nil {
		return err
	}
	return d.sync.start()
}

// checkAll makes the calls of every expectation and prints who served them.
func (d *demoWorld) checkAll(ctx context.Context, list []expectation) error {
	for _, e := range list {
		var words []string
		good := true
		for range calls {
			a, err := d.call(ctx, map[string]string{"farcall-strategy": e.strategy})
			if err != nil {
				return err
			}
			word, ok := e.judge(a)
			words = append(words, word)
			if !ok {
				good = false
				d.missed++
			}
		}
		mark := "ok"
		if !good {
			mark = "WRONG, want " + strings.Join(e.clusters, " or ")
		}
		d.say("  %-15s %s  %s", e.strategy, strings.Join(fold(words), ", "), mark)
	}
	return nil
}

// judge says in a word who served a call, and whether that is as expected.
func (e expectation) judge(a answer) (string, bool) {
	switch {
	case e.strategy == "broadcast":
		served, failed := a.parts()
		word := strings.Join(served, "+")
		if len(failed) > 0 {
			word += " (failed: " + strings.Join(failed, ", ") + ")"
		}
		want := slices.Sorted(slices.Values(e.clusters))
		return word, a.status == e.status && slices.Equal(slices.Sorted(slices.Values(served)), want) && strings.Join(failed, " ") == e.failed
	case a.status != http.StatusOK:
		return fmt.Sprintf("%d %s", a.status, a.reason()), a.status == e.status
	}
	return a.servedBy, a.status == e.status && slices.Contains(e.clusters, a.cluster())
}

// fold writes equal words once, with how often they stood there.
func fold(words []string) []string {
	var out []string
	for _, w := range slices.Compact(slices.Sorted(slices.Values(words))) {
		n := 0
		for _, x := range words {
			if x == w {
				n++
			}
		}
		out = append(out, fmt.Sprintf("%d× %s", n, w))
	}
	return out
}

// answer is what an application gets.
type answer struct {
	status   int
	servedBy string
	why      string // farcall-reason
	body     string
}

func (a answer) cluster() string {
	c, _, _ := strings.Cut(a.servedBy, "/")
	return c
}

// parts are the clusters of a broadcast that answered, and those that did not.
func (a answer) parts() (served, failed []string) {
	var list []struct {
		Cluster string
		Status  int
		Error   any
	}
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		return nil, []string{a.body}
	}
	for _, p := range list {
		if p.Status == http.StatusOK {
			served = append(served, p.Cluster)
		} else {
			failed = append(failed, p.Cluster)
		}
	}
	return served, failed
}

func (a answer) reason() string {
	var e struct {
		ErrorCode string `json:"errorCode"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		return a.body
	}
	return e.ErrorCode
}

// call is what an application in east does: one HTTP request to its node's agent.
func (d *demoWorld) call(ctx context.Context, header map[string]string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.clusters[0].http+"/v1.0/invoke/cart/method/hello", nil)
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	b, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, servedBy: resp.Header.Get("farcall-served-by"), why: resp.Header.Get("farcall-reason"), body: strings.TrimSpace(string(b))}, err
}
