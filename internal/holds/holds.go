// Package holds makes records of what a guard holds back, and reads them, so that whoever goes on
// where somebody else stopped holds what was held. A record says how much time was left when it was
// written: clocks of different hosts are never compared, and time in which nobody held anything does
// not count.
//
// It knows neither the store nor the disk, does no I/O and runs no goroutines.
package holds

import (
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// mostLeft bounds the time that a record may claim to be left. What is above it was never configured.
const mostLeft = 30 * 24 * time.Hour

// maxDetail bounds the words for a reason, in bytes: a registry may have written them.
const maxDetail = 1000

// Record makes records of what is held of one registry, which stands in identity order. An identity
// that no record can carry, because it is not text, is in no list either and is left out.
func Record(now time.Time, registry string, held []guard.Hold) []*storev1.HoldGroup {
	type key struct {
		since, until    time.Time
		reason, detail  string
		doubted, listed bool
	}
	var groups []*storev1.HoldGroup
	at := map[key]*storev1.HoldGroup{}
	for _, h := range held {
		if !utf8.ValidString(h.ID.Instance) {
			continue
		}
		k := key{h.Since, h.Until, string(h.Reason), words(h.Detail), h.Doubted, h.Listed}
		g := at[k]
		if g == nil {
			g = &storev1.HoldGroup{
				Registry: registry, Reason: k.reason, Detail: k.detail, Doubted: k.doubted, Listed: k.listed,
				Held: durationpb.New(max(now.Sub(h.Since), 0)), Left: durationpb.New(max(h.Until.Sub(now), 0)),
			}
			at[k] = g
			groups = append(groups, g)
		}
		services := g.GetServices()
		if n := len(services); n == 0 || services[n-1].GetNamespace() != h.ID.Namespace || services[n-1].GetService() != h.ID.Service {
			g.Services = append(g.Services, &storev1.HeldService{Namespace: h.ID.Namespace, Service: h.ID.Service})
		}
		last := g.Services[len(g.Services)-1]
		last.Ids = append(last.Ids, h.ID.Instance)
	}
	return groups
}

func words(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxDetail)], "\uFFFD")
}

// Read gives what records of a cluster say is held, by registry, with the time that it has left from
// now on. Times that make no sense are made such that a hold lasts as long as it would by default.
func Read(now time.Time, cluster string, groups []*storev1.HoldGroup) map[string][]guard.Hold {
	all := map[string][]guard.Hold{}
	for _, g := range groups {
		h := guard.Hold{
			Since: now.Add(-sensible(g.GetHeld(), 0)), Until: now.Add(sensible(g.GetLeft(), guard.DefaultHold)),
			Reason: reason(g.GetReason()), Detail: g.GetDetail(), Doubted: g.GetDoubted(), Listed: g.GetListed(),
		}
		for _, s := range g.GetServices() {
			for _, id := range s.GetIds() {
				h.ID = catalog.ID{Cluster: cluster, Name: catalog.Name{Namespace: s.GetNamespace(), Service: s.GetService()}, Instance: id}
				all[g.GetRegistry()] = append(all[g.GetRegistry()], h)
			}
		}
	}
	return all
}

// reason takes a word that a newer version may have written for the most suspicious one.
func reason(word string) guard.Reason {
	switch r := guard.Reason(word); r {
	case guard.Burst, guard.Catalogue, guard.Reset:
		return r
	}
	return guard.Reset
}

func sensible(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration() > mostLeft {
		return otherwise
	}
	return d.AsDuration()
}
