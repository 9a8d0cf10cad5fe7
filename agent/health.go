package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// tellRefused bounds how many of the policies that are not understood are named.
const tellRefused = 3

// degraded says in words what the agent has to do without; empty when nothing.
func (a *Agent) degraded() []string {
	var out []string
	switch {
	case !a.uplink.Connected():
		word := "no feed: calls go on with what is known of other clusters"
		if err := a.uplink.Trouble(); err != nil {
			word += ": " + err.Error()
		}
		out = append(out, word)
	case a.book.Stranger():
		out = append(out, fmt.Sprintf("no synchronizer of this federation is configured for cluster %q: is its name right?", a.cfg.Cluster))
	case a.uplink.Stale():
		out = append(out, "the feed brings nothing new: every cluster is stale")
	}
	if id := a.deps.Identity; id != nil {
		if why := id.Trouble(time.Now()); why != "" {
			out = append(out, "synchronizers and other agents will not believe this one: "+why)
		}
	}
	policies := a.book.Policies()
	if !policies.Known {
		out = append(out, "the policies are not known yet: calls stay in the own cluster")
	}
	for _, why := range policies.Refused[:min(len(policies.Refused), tellRefused)] {
		out = append(out, "a policy is not understood: "+why)
	}
	if more := len(policies.Refused) - tellRefused; more > 0 {
		out = append(out, fmt.Sprintf("%d more policies are not understood", more))
	}
	if !a.read.Load() {
		out = append(out, "the own registries were not all read")
	}
	if a.contributor.Ownerless() {
		out = append(out, "the synchronizer that writes this cluster hears nothing of this agent: what its registries say is not told to others")
	}
	return out
}

// serveMetrics serves /metrics, /healthz (the process lives) and /readyz (it takes calls,
// degraded or not).
func (a *Agent) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.deps.Registry, promhttp.HandlerOpts{Registry: a.deps.Registry}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch why := a.degraded(); {
		case a.draining.Load():
			text(w, http.StatusServiceUnavailable, "draining")
		case len(why) > 0:
			text(w, http.StatusOK, "degraded: "+strings.Join(why, "; "))
		default:
			text(w, http.StatusOK, "ok")
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(a.deps.Metrics) }()
	select {
	case err := <-done:
		return fmt.Errorf("metrics: %w", err)
	case <-ctx.Done():
		_ = srv.Close() // a scrape that is cut off is repeated
		<-done
		return ctx.Err()
	}
}

func text(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(s + "\n")) // a client that went away needs no answer
}
