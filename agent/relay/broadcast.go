package relay

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
)

// MaxBroadcastBody bounds, in bytes, the body of a broadcast call and of each reply to it, for
// both are held in memory.
const MaxBroadcastBody = 4 << 20

// Reply is what came of one cluster's part in a broadcast.
type Reply struct {
	Cluster string
	Answer
	// Body is the whole body of the answer. It is there also where Err says that it was cut short.
	Body []byte
}

// OK reports whether the cluster's instance answered, and with a success.
func (r *Reply) OK() bool { return r.Err == nil && r.Response.OK() }

// Reason is one word for why a reply is no success; empty where it is one.
func (r *Reply) Reason() string {
	switch {
	case r.OK():
		return ""
	case r.Err == nil:
		return invoke.ReasonApplication
	default:
		return r.Err.Reason
	}
}

// Failure says in words why a reply is no success; empty where it is one.
func (r *Reply) Failure() string {
	switch {
	case r.OK():
		return ""
	case r.Err == nil:
		return fmt.Sprintf("the application answered %d", r.Response.Status)
	case r.Err.Reason == invoke.ReasonUnreachable:
		return invoke.ReasonUnreachable
	default:
		return r.Err.Error()
	}
}

// Replies are what came of a broadcast.
type Replies struct {
	// List has one for each cluster, in the order of the choice: local first.
	List     []Reply
	strategy string
	terms    *Terms
}

// Succeeded counts the replies that are a success.
func (r *Replies) Succeeded() int {
	n := 0
	for i := range r.List {
		if r.List[i].OK() {
			n++
		}
	}
	return n
}

// MinSuccess is how many had to succeed: as many as the policy says, else all.
func (r *Replies) MinSuccess() int {
	if r.terms.MinSuccess > 0 {
		return r.terms.MinSuccess
	}
	return len(r.List)
}

// Answer is what a broadcast as a whole counts as: without a response, and with an error that
// names every failed target where too few succeeded.
func (r *Replies) Answer() Answer {
	a := Answer{Strategy: r.strategy, Rule: r.terms.Rule, Tier: -1, Err: r.err()}
	for i := range r.List {
		a.Attempts += r.List[i].Attempts
	}
	return a
}

func (r *Replies) err() *invoke.Error {
	if len(r.List) == 0 {
		// The clusters went between the plan and the call.
		return invoke.NotDispatched(invoke.ReasonNoInstance, "no cluster has an instance to call")
	}
	succeeded := r.Succeeded()
	if succeeded >= r.MinSuccess() {
		return nil
	}
	text := fmt.Sprintf("%d of %d targets succeeded, and %d had to", succeeded, len(r.List), r.MinSuccess())
	// Unavailable promises that nobody executed the call.
	code := codes.Unavailable
	for i := range r.List {
		reply := &r.List[i]
		if reply.Err == nil || !reply.Err.NotExecuted() {
			code = codes.Internal
		}
		if !reply.OK() {
			text += "; " + reply.Cluster + ": " + r.brief(reply)
		}
	}
	return invoke.Errorf(code, invoke.ReasonBroadcast, "%s", text)
}

// brief is a reply's failure in a list of them, which stays below the few KiB that some clients
// take for the headers of an answer.
func (r *Replies) brief(reply *Reply) string {
	const most = 120
	if len(r.List) > 16 {
		return reply.Reason()
	}
	text := reply.Failure()
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// Broadcast makes the call at one instance of each of ch's clusters and waits for all of them,
// each no longer than the terms' TargetTimeout and the deadline of ctx. MaxParallel are called at
// the same time, local first. A failed attempt is followed only by others in the same cluster.
//
// The request's body must be in memory (Rest is nil); mostBody bounds that of each reply, in
// bytes. each, where not nil, is called with every reply as it comes in, by this goroutine; it
// holds up no target.
func (r *Relay) Broadcast(ctx context.Context, ch Choice, req *invoke.Request, mostBody int, each func(*Reply)) Replies {
	terms, clusters := ch.Terms(), ch.Clusters()
	out := Replies{List: make([]Reply, len(clusters)), strategy: ch.Strategy(), terms: terms}
	next, came := make(chan int, len(clusters)), make(chan int, len(clusters))
	for i, c := range clusters {
		out.List[i] = Reply{Cluster: c.Cluster, Answer: Answer{Strategy: out.strategy, Rule: terms.Rule, Tier: -1}}
		if c.Unreachable {
			out.List[i].Err = invoke.NotDispatched(invoke.ReasonUnreachable, "cluster %s is measured unreachable", c.Cluster)
			came <- i
			continue
		}
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	for range min(max(terms.MaxParallel, 1), len(next)) {
		wg.Go(func() {
			for i := range next {
				r.reply(ctx, clusters[i].Choice, req, terms.TargetTimeout, mostBody, &out.List[i])
				came <- i
			}
		})
	}
	for range clusters {
		reply := &out.List[<-came]
		r.metrics.targets.WithLabelValues(targetLabel(reply)).Inc()
		if each != nil {
			each(reply)
		}
	}
	wg.Wait()
	return out
}

// reply makes one target's part of a broadcast. limit is 0 where only the call's own deadline
// bounds it.
func (r *Relay) reply(call context.Context, ch Choice, req *invoke.Request, limit time.Duration, mostBody int, out *Reply) {
	ctx, cancel := context.WithCancel(call)
	defer cancel()
	if limit > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, limit)
		defer stop()
	}
	out.Answer = r.Do(ctx, ch, req)
	if out.Err == nil {
		out.read(ctx, mostBody)
	}
	if out.Err != nil && out.Err.Code == codes.DeadlineExceeded && ctx.Err() != nil && call.Err() == nil {
		out.Err = invoke.Errorf(codes.DeadlineExceeded, invoke.ReasonDeadline, "no answer within targetTimeout, which is %v", limit)
	}
}

// read reads and closes the body of an answer.
func (r *Reply) read(ctx context.Context, most int) {
	defer r.Response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Response.Body, int64(most)+1))
	switch {
	case err != nil:
		r.Err = invoke.OutcomeUnknown("the answer was cut short: %v", err)
		if e := invoke.FromContext(ctx); e != nil {
			r.Err = e
		}
	case len(body) > most:
		body = body[:most]
		r.Err = invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "the answer is larger than %d bytes", most)
	}
	r.Body = body
}
