package synchronizer

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

const (
	// appsEvery is how often the applications are confirmed.
	appsEvery = time.Second
	// appsPatience is how long nobody needs to have come before that is told as a failure.
	appsPatience = 5 * time.Second
)

// apps is the registry of the applications that the agents of a cluster deliver to and put into
// no registry, in a cluster that is read via its agents: it reads their records in the store. A
// record goes when its agent takes it back, so what is missing was removed on purpose.
type apps struct {
	cluster string
	agents  func() []*catalogv1.Agent // every cluster's records; a record that did not change is the same pointer
	changed func() <-chan struct{}    // closed at the next change of a record
	// heard is closed when the first agent has told which links it has. Before that, there may be
	// services that nobody here knows of.
	heard     func() <-chan struct{}
	connected func() int // agents that contribute now
}

var _ resolvers.Resolver = (*apps)(nil)

// Run publishes the applications until ctx is done.
func (a *apps) Run(ctx context.Context, out resolvers.Sink) error {
	tick := time.NewTicker(appsEvery)
	defer tick.Stop()
	r := appsReader{apps: a, out: out, began: time.Now()}
	first := a.heard()
	for {
		changed := a.changed()
		r.look(time.Now())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-first:
			first, r.ever = nil, true
		case <-changed:
		case <-tick.C:
			r.due = true
		}
	}
}

// appsReader is one Run.
type appsReader struct {
	*apps
	out   resolvers.Sink
	began time.Time
	ever  bool                        // an agent has told which links it has
	due   bool                        // a second has passed
	have  map[string]*catalogv1.Agent // by node, as published; nil before the first time
}

// look publishes what changed since the last time. Where nothing has and a second has passed, it
// confirms that, as long as there is an agent that could say otherwise.
func (r *appsReader) look(now time.Time) {
	due := r.due
	r.due = false
	switch {
	case r.ever && r.publish():
	case !due || !r.ever && now.Sub(r.began) <= appsPatience:
	case r.connected() == 0:
		r.out.Failed(fmt.Errorf("no agent of cluster %q is connected to this synchronizer: its agents need it among their `synchronizers`", r.cluster))
	case r.ever:
		r.out.Confirm()
	}
}

// publish reports whether there was anything to publish.
func (r *appsReader) publish() bool {
	u := catalog.Update{Full: r.have == nil, Explicit: true}
	now := map[string]*catalogv1.Agent{}
	for _, a := range r.agents() {
		if a.GetCluster() != r.cluster {
			continue
		}
		now[a.GetNode()] = a
		if r.have[a.GetNode()] != a {
			u.Snapshots = append(u.Snapshots, appsOf(a))
		}
	}
	for node := range r.have {
		if now[node] == nil {
			u.Snapshots = append(u.Snapshots, catalog.Snapshot{Source: node})
		}
	}
	r.have = now
	if !u.Full && len(u.Snapshots) == 0 {
		return false
	}
	r.out.Publish(u)
	return true
}

// appsOf makes instances of the applications of one agent.
func appsOf(a *catalogv1.Agent) catalog.Snapshot {
	s := catalog.Snapshot{Source: a.GetNode()}
	host, _, err := net.SplitHostPort(a.GetAddress())
	if err != nil {
		s.SetAside = append(s.SetAside, catalog.SetAside{Record: "agent " + a.GetNode(), Reason: err.Error()})
		return s
	}
	for _, p := range a.GetApps() {
		if p.GetPort() == 0 || p.GetRegistered() {
			continue
		}
		name := catalog.Name{Namespace: p.GetNamespace(), Service: p.GetId()}
		s.Services = append(s.Services, name)
		s.Instances = append(s.Instances, &catalog.Instance{
			ID:       catalog.ID{Name: name, Instance: p.GetId() + "-" + a.GetNode() + "-" + strconv.FormatUint(uint64(p.GetPort()), 10)},
			Node:     a.GetNode(),
			Locality: catalog.LocalityFromProto(a.GetLocality()),
			Address:  host,
			Port:     int(p.GetPort()),
			Weight:   1,
		})
	}
	return s
}
