package synchronizer

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
)

const (
	// hedgeAfter is how long one who is asked may be silent before the next is asked as well.
	hedgeAfter = 300 * time.Millisecond
	// hedgeAgents is how many agents here are asked before other replicas are.
	hedgeAgents = 3
)

// ask is somebody who may answer.
type ask struct {
	who string
	f   func(context.Context) (*adminv1.ExplainResponse, error)
}

// first asks one after the other, the next one when the last fails or is silent for a while, and
// those behind the first `here` all at once. It gives the first answer; without one, it gives the
// failures by place in asks. Somebody's word that the question makes no sense is the last.
func first(ctx context.Context, asks []ask, here int) (*adminv1.ExplainResponse, []error) {
	ctx, cancel := within(ctx, consultWithin)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	type result struct {
		n    int
		resp *adminv1.ExplainResponse
		err  error
	}
	results := make(chan result, len(asks))
	failures := make([]error, len(asks))
	begun, open := 0, 0
	more := func() {
		to := min(begun+1, len(asks))
		if begun >= here {
			to = len(asks)
		}
		for ; begun < to; begun, open = begun+1, open+1 {
			n := begun
			running.Go(func() {
				resp, err := asks[n].f(ctx)
				results <- result{n, resp, err}
			})
		}
	}
	tick := time.NewTicker(hedgeAfter)
	defer tick.Stop()
	more()
	for open > 0 {
		select {
		case r := <-results:
			open--
			if r.err == nil && r.resp != nil {
				return r.resp, nil
			}
			if failures[r.n] = r.err; r.err == nil {
				failures[r.n] = errors.New("it answered something else")
			}
			if status.Code(r.err) == codes.InvalidArgument {
				return nil, failures
			}
		case <-tick.C:
		}
		if ctx.Err() == nil {
			more()
		}
	}
	return nil, failures
}
