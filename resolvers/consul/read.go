package consul

import (
	"context"
	"errors"
	"fmt"
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
	read, failed, err := r.read(ctx, w.services, causeStart)
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

// tolerated is how many questions of one round may be refused before it is given up: one broken
// service must not keep the others' news back, and a broken Consul need not be asked for all of
// them.
const tolerated = 16

// read reads services. It gives those that it read and the others, with the first error.
func (r *Resolver) read(ctx context.Context, names []string, why cause) (read map[string]*service, failed []string, err error) {
	r.metrics.reads.WithLabelValues(r.name, string(why)).Add(float64(len(names)))
	read, failed, err = fetch(ctx, names, r.readOne)
	r.metrics.retries.WithLabelValues(r.name).Add(float64(len(failed)))
	return read, failed, err
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

// fetch asks for several things at a time. It gives what it got and what it did not, with the
// first error.
func fetch[T any](ctx context.Context, names []string, one func(context.Context, string) (T, error)) (got map[string]T, failed []string, first error) {
	got = make(map[string]T, len(names))
	var mu sync.Mutex // guards got, first and refused
	refused := 0
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, name := range names {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			v, err := one(gctx, name)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got[name] = v
				return nil
			}
			if first == nil {
				first = fmt.Errorf("%w (%s)", err, name)
			}
			refused++
			if status := (api.StatusError{}); !errors.As(err, &status) || refused > tolerated {
				return err // Consul does not answer, or not this client: no need to ask on
			}
			return nil
		})
	}
	// The group's error is the one that ended the round early; the first is the cause.
	if err := g.Wait(); err == nil && first == nil {
		return got, nil, ctx.Err()
	}
	for _, name := range names {
		if _, ok := got[name]; !ok {
			failed = append(failed, name)
		}
	}
	if len(failed) > 1 {
		first = fmt.Errorf("%w and %d more", first, len(failed)-1)
	}
	return got, failed, first
}
