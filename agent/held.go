package agent

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/resolvers/intake"
)

const (
	// tellHeld bounds how many of the instances held of one registry are named, tellHeldBytes how much
	// that is of all registries, and tellHeldOf how many registries there are told of: a thousand agents
	// may say the same every few seconds.
	tellHeld      = 20
	tellHeldBytes = 8 << 10
	tellHeldOf    = 50
	// tellDetail bounds the words for a reason, in bytes: a registry may have written them.
	tellDetail = 300
)

// held is what the agent says in its reports of what it holds back of its own registries.
func (a *Agent) held(now time.Time) []*feedv1.HeldBack {
	if a.intake == nil || a.intake.Held() == 0 {
		return nil
	}
	m := a.mirror.Load()
	return heldBack(now, a.intake.Holds(), m != nil && a.uplink.Connected() && fresh(m, a.cfg.Cluster, now))
}

// heldBack sums up what is held, by registry. Where the cluster's owner is not heard, its word counts
// for nothing.
func heldBack(now time.Time, holds []intake.Hold, heard bool) []*feedv1.HeldBack {
	var all []*feedv1.HeldBack
	var since, until time.Time // of the last of all
	size := 0
	for _, h := range holds {
		if len(all) == 0 || all[len(all)-1].GetRegistry() != h.Registry {
			if len(all) == tellHeldOf {
				break
			}
			all = append(all, &feedv1.HeldBack{Registry: h.Registry})
			since, until = time.Time{}, time.Time{}
		}
		b := all[len(all)-1]
		b.Instances++
		if heard && h.Listed {
			b.Followed++
		}
		if since.IsZero() || h.Since.Before(since) {
			since = h.Since
			b.Held = durationpb.New(max(now.Sub(since), 0))
			b.Reason, b.Detail = string(h.Reason), inShort(h.Detail)
		}
		if h.Until.After(until) {
			until = h.Until
			b.Left = durationpb.New(max(until.Sub(now), 0))
		}
		id := &adminv1.HeldInstance{Namespace: h.ID.Namespace, Service: h.ID.Service, Id: strings.ToValidUTF8(h.ID.Instance, "\uFFFD")}
		if n := proto.Size(id); len(b.GetSome()) < tellHeld && size+n <= tellHeldBytes {
			b.Some, size = append(b.Some, id), size+n
		}
	}
	return all
}

// inShort bounds words for people.
func inShort(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), tellDetail)], "\uFFFD")
}

// fresh reports whether what a feed's mirror says of a cluster is its owner's word of now.
func fresh(m *mirror.Mirror, cluster string, now time.Time) bool {
	for _, c := range m.Clusters(now) {
		if c.Name == cluster {
			return saysSomething(c)
		}
	}
	return false
}
