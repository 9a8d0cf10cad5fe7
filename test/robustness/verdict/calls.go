package verdict

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// Grace is how much later than its own time limit a call may end: what a loaded machine takes to say
// so. Whoever records calls gives up no earlier.
const Grace = 10 * time.Second

// broadcast is the strategy whose calls are executed once in each cluster.
const broadcast = "broadcast"

// calls judges I5: each call against its executions and the faults of the episode.
func (e *episode) calls() {
	runs := map[string][]*history.Run{}
	for _, v := range e.events {
		if v.Run != nil {
			runs[v.Run.ID] = append(runs[v.Run.ID], v.Run)
		}
	}
	all, good := 0, 0
	var slow []history.Event
	for _, v := range e.events {
		c := v.Call
		if c == nil {
			continue
		}
		all++
		if c.Code == http.StatusOK || c.Code == http.StatusMultiStatus {
			good++
		}
		e.ended(v.At, c)
		e.executed(v.At, c, runs[c.ID])
		e.routed(v.At, c, runs[c.ID])
		if e.typed(v.At, c) {
			continue
		}
		if outOfTime(c) {
			slow = append(slow, v)
			continue
		}
		e.undeserved(v)
	}
	if len(slow) > max(fewSlow, all/slowPart) {
		for _, v := range slow {
			e.undeserved(v)
		}
	}
	if good == 0 {
		e.nothing("no call was answered")
	}
}

// ended: the call came to an end, in time.
func (e *episode) ended(at time.Duration, c *history.Call) {
	switch took := at - c.Sent; {
	case c.Lost, e.brokenOff(at, c):
	case c.Code == 0:
		e.broke(ErrHung, at, "call %s from %s (%s) got no answer: %s", c.ID, c.From, c.Strategy, c.Error)
	case took > c.Timeout+Grace:
		e.broke(ErrHung, at, "call %s from %s (%s) took %v with a limit of %v", c.ID, c.From, c.Strategy, took, c.Timeout)
	}
}

// brokenOff reports whether the caller's agent ended the connection in place of an answer, as it must
// where the answer that it was passing on broke off in the middle, and something broke it.
func (e *episode) brokenOff(at time.Duration, c *history.Call) bool {
	return c.Code == 0 && at-c.Sent < c.Timeout && strings.HasSuffix(c.Error, "EOF") && e.excused(at)
}

// executed: as often as it may have been, and as its caller was told.
func (e *episode) executed(at time.Duration, c *history.Call, runs []*history.Run) {
	in := map[string]int{}
	for _, r := range runs {
		in[r.Cluster]++
	}
	if c.Strategy != broadcast {
		in = map[string]int{"": len(runs)}
	}
	for cluster, n := range in {
		if n > 1 && !c.Idempotent {
			e.broke(ErrTwice, at, "call %s from %s (%s) was executed %d times %s: %s", c.ID, c.From, c.Strategy, n, cluster, where(runs))
		}
	}
	switch {
	case c.Lost:
	case c.Code == http.StatusServiceUnavailable && len(runs) > 0:
		e.broke(ErrNotExecuted, at, "call %s from %s got %d %s, and was executed by %s", c.ID, c.From, c.Code, c.Reason, where(runs))
	case c.Code == http.StatusOK && !slices.ContainsFunc(runs, func(r *history.Run) bool { return r.Cluster+"/"+r.Instance == c.ServedBy }):
		e.broke(ErrNotExecuted, at, "call %s from %s is said to be served by %q, and was executed by [%s]", c.ID, c.From, c.ServedBy, where(runs))
	}
}

func where(runs []*history.Run) string {
	var out []string
	for _, r := range runs {
		out = append(out, r.Cluster+"/"+r.Instance)
	}
	return strings.Join(out, " ")
}

// routed: by the right service in an allowed cluster, also where the answer did not come back.
func (e *episode) routed(at time.Duration, c *history.Call, runs []*history.Run) {
	for _, r := range runs {
		own := r.Cluster == c.From
		switch {
		case r.Service != c.Service:
			e.broke(ErrMisrouted, at, "call %s of %s was executed by %s of %s/%s", c.ID, c.Service, r.Service, r.Cluster, r.Instance)
		case c.Pin != "" && r.Cluster != c.Pin:
			e.broke(ErrMisrouted, at, "call %s, pinned to %s, was executed in %s", c.ID, c.Pin, r.Cluster)
		case c.Strategy == "local-only" && !own, c.Strategy == "external-only" && own:
			e.broke(ErrMisrouted, at, "call %s from %s, %s, was executed in %s", c.ID, c.From, c.Strategy, r.Cluster)
		case c.Pin == "" && e.calm(at) && (c.Strategy == "local-first" && !own || c.Strategy == "external-first" && own) && e.preferred(c, at):
			e.broke(ErrMisrouted, at, "call %s from %s, %s, was executed in %s though nothing was wrong", c.ID, c.From, c.Strategy, r.Cluster)
		}
	}
}

// calm reports whether nothing had gone wrong in this episode by then.
func (e *episode) calm(at time.Duration) bool {
	return !slices.ContainsFunc(e.faults, func(s *span) bool { return s.since <= at })
}

// preferred reports whether the clusters that a call's strategy prefers had instances all the time.
func (e *episode) preferred(c *history.Call, at time.Duration) bool {
	for p := range e.truths {
		all := e.before(p, at)
		if p.service == c.Service && (p.cluster == c.From) == (c.Strategy == "local-first") &&
			len(all) > 0 && !slices.ContainsFunc(all, func(t truth) bool { return len(t.have) == 0 }) {
			return true
		}
	}
	return false
}

// A machine that has much else to do makes a connection take longer than an agent waits for it. That
// happens to single calls: where callers depend on something that they should not, it happens to many.
const (
	fewSlow  = 2
	slowPart = 50 // of the calls of an episode, one in so many
)

// outOfTime reports whether a call failed because something took too long.
func outOfTime(c *history.Call) bool {
	return slices.ContainsFunc([]string{"UNREACHABLE", "NO_CONNECTION", "DEADLINE_EXCEEDED"}, func(reason string) bool {
		return c.Reason == reason || c.Strategy == broadcast && strings.Contains(c.Error, reason)
	})
}

func (e *episode) undeserved(v history.Event) {
	c := v.Call
	e.broke(ErrUndeserved, v.At, "call %s from %s (%s %s) got %d %s: %s", c.ID, c.From, c.Strategy, c.Pin, c.Code, c.Reason, c.Error)
}

// typed: an error is one of those that are documented. It reports whether somebody caused it, and
// true where there is none.
func (e *episode) typed(at time.Duration, c *history.Call) bool {
	if c.Lost || c.Code == 0 || c.Code == http.StatusOK || c.Code == http.StatusMultiStatus {
		return true
	}
	ok := c.Reason == history.Application
	switch c.Code {
	case http.StatusBadGateway:
		ok = ok || c.Reason == "OUTCOME_UNKNOWN" || c.Reason == "BROADCAST_FAILED" && c.Strategy == broadcast
	case http.StatusServiceUnavailable:
		ok = ok || c.Reason != ""
	case http.StatusGatewayTimeout:
		ok = ok || c.Reason == "DEADLINE_EXCEEDED"
	}
	if !ok {
		// 404 is one of these: every service is listed somewhere all the time.
		e.broke(ErrUntyped, at, "call %s from %s (%s %s) got %d %q", c.ID, c.From, c.Strategy, c.Pin, c.Code, c.Reason)
		return true
	}
	return e.excused(at) || e.outdated(at, c)
}

// excused reports whether anything that callers depend on had been broken before at.
func (e *episode) excused(at time.Duration) bool {
	return slices.ContainsFunc(e.faults, func(s *span) bool { return s.Callers && s.since <= at })
}

// outdated reports whether a call came to instances that are gone, all its attempts, when something
// had kept lists from being told: they may be as old as that lasts.
func (e *episode) outdated(at time.Duration, c *history.Call) bool {
	gone := c.Reason == unknownTarget || strings.Contains(c.Error, unknownTarget)
	return gone && slices.ContainsFunc(e.faults, func(s *span) bool { return s.Cluster == "" && s.since <= at })
}

// unknownTarget is the reason of an agent that is sent a call for an instance which is not its own.
const unknownTarget = "UNKNOWN_TARGET"
