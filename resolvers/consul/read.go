package consul

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// full reads everything and publishes it as one Full update, or nothing. The lists come before
// the services, so that what changes between them is told by the watchers, which go on from the
// lists' indexes.
func (r *Resolver) full(ctx context.Context, out resolvers.Sink) (*ledger, error) {
	p, err := r.client.probe(ctx)
	if err != nil {
		return nil, err
	}
	r.suspect(r.seen.identify(p.servers))
	services, err := r.client.services(ctx, 0)
	if err != nil {
		return nil, err
	}
	checks, err := r.client.checks(ctx, 0)
	if err != nil {
		return nil, err
	}
	nodes, err := r.client.nodes(ctx, 0)
	if err != nil {
		return nil, err
	}
	r.suspect(advance("services", &r.seen.services, services.index))
	r.suspect(advance("checks", &r.seen.checks, checks.index))
	r.suspect(advance("nodes", &r.seen.nodes, nodes.index))

	led := newLedger(r.cfg.excludes, services, checks, nodes)
	w, _ := led.next(p.at)
	w.why = causeStart
	read, failed, err := r.read(ctx, w)
	if err != nil {
		return nil, err
	}
	led.apply(p.at, read, failed)
	u := catalog.Update{Full: true, Snapshots: led.everything(), Reset: r.reset, Revision: led.revision()}
	if r.reset != "" {
		r.metrics.resets.WithLabelValues(r.name).Inc()
		r.log.Info("consul looks like another registry: read all of it again", "registry", r.name, "reason", r.reset)
	}
	r.reset = ""
	out.Publish(u)
	return led, nil
}

// suspect keeps the reason why the registry looks like another one until the next Full update
// carries it.
func (r *Resolver) suspect(reason string) {
	switch {
	case reason == "":
	case r.reset == "":
		r.reset = reason
	default:
		r.reset += "; " + reason
	}
}

// tolerated is how many services may be refused in one round before the round is given up: one
// broken service must not keep the others' news back, and a broken Consul need not be asked for
// all of them.
const tolerated = 16

// read reads the services of one round, some at a time. It gives those that it read and the
// others, with the first error.
func (r *Resolver) read(ctx context.Context, w work) (read map[string]*service, failed []string, first error) {
	r.metrics.reads.WithLabelValues(r.name, string(w.why)).Add(float64(len(w.names)))
	if w.begins != "" {
		r.metrics.sweeps.WithLabelValues(r.name, string(w.begins)).Inc()
	}
	read = make(map[string]*service, len(w.names))
	var mu sync.Mutex // guards read and refused
	refused := 0
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, name := range w.names {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			s, err := r.readOne(gctx, name)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				read[name] = s
				return nil
			}
			if first == nil {
				first = err
			}
			refused++
			if status := (api.StatusError{}); !errors.As(err, &status) || refused > tolerated {
				return err // Consul does not answer, or not this client: no need to ask on
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil && first == nil {
		first = err
	}
	if first == nil {
		return read, nil, ctx.Err()
	}
	failed = slices.DeleteFunc(slices.Clone(w.names), func(name string) bool { return read[name] != nil })
	r.metrics.retries.WithLabelValues(r.name).Add(float64(len(failed)))
	if len(failed) > 1 {
		first = fmt.Errorf("%w (and %d more services)", first, len(failed)-1)
	}
	return read, failed, first
}

func (r *Resolver) readOne(ctx context.Context, name string) (*service, error) {
	if !askable(name) {
		return unaskable(name), nil
	}
	reply, err := r.client.service(ctx, name)
	if err != nil {
		return nil, err
	}
	return convert(name, r.cfg.portKey(), reply.index, reply.body), nil
}
