package relay

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
)

// The defaults of a broadcast (strategies.md "broadcast").
const (
	maxParallel   = 16
	targetTimeout = 10 * time.Second
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

// Broadcast makes the call at one instance of each of the clusters, in parallel, and waits for all;
// the replies stand in the same order. A failed attempt is followed only by others in the same
// cluster. The request's body must be in memory (Rest is nil).
func (r *Relay) Broadcast(ctx context.Context, clusters []ClusterChoice, req *invoke.Request) []Reply {
	replies := make([]Reply, len(clusters))
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxParallel)
	for i, c := range clusters {
		replies[i].Cluster = c.Cluster
		replies[i].Strategy = Broadcast
		replies[i].Tier = -1
		if c.Unreachable {
			replies[i].Err = invoke.Errorf(codes.Unavailable, invoke.ReasonUnreachable, "cluster %s is measured unreachable", c.Cluster)
			continue
		}
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
				r.reply(ctx, c.Choice, req, &replies[i])
				<-slots
			case <-ctx.Done():
				replies[i].Err = invoke.FromContext(ctx)
			}
		})
	}
	wg.Wait()
	return replies
}

func (r *Relay) reply(ctx context.Context, ch Choice, req *invoke.Request, out *Reply) {
	ctx, cancel := context.WithTimeout(ctx, targetTimeout)
	defer cancel()
	out.Answer = r.Do(ctx, ch, req)
	if out.Err != nil {
		return
	}
	defer out.Response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(out.Response.Body, MaxBroadcastBody+1))
	switch {
	case err != nil:
		out.Err = invoke.OutcomeUnknown("the answer was cut short: %v", err)
		if e := invoke.FromContext(ctx); e != nil {
			out.Err = e
		}
	case len(body) > MaxBroadcastBody:
		body = body[:MaxBroadcastBody]
		out.Err = invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "the answer is larger than %d bytes", MaxBroadcastBody)
	}
	out.Body = body
}
