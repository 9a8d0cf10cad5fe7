package view

import (
	"maps"

	"github.com/farcall/farcall/internal/catalog"
)

// selfSufficient reports whether the own registries alone tell the own cluster's list. Caller
// holds mu.
func (b *Book) selfSufficient() bool { return b.cfg.HasRegistry && b.complete && !b.via }

// localList is the own cluster's list: what the own registries say, and what the synchronizer
// holds of those that they do not speak for. Of the same identity the own is taken. Caller holds
// mu.
func (b *Book) localList(n catalog.Name) (list []*catalog.Instance, known bool) {
	own, ok := b.local[n]
	if b.mirror == nil || b.selfSufficient() {
		return own.Instances, ok
	}
	held, known := b.mirror.Instances(b.cfg.Self.Cluster, n)
	return union(own.Instances, b.unheard(held)), ok || known
}

// unheard gives the instances of what the synchronizer holds of the own cluster that the own
// registries do not speak for, in their order. Caller holds mu.
func (b *Book) unheard(held []*catalog.Instance) []*catalog.Instance {
	var out []*catalog.Instance
	registry, heard := "", b.hears("")
	for _, i := range held {
		if i.Registry != registry {
			registry, heard = i.Registry, b.hears(i.Registry)
		}
		if !heard {
			out = append(out, i)
		}
	}
	return out
}

// hears reports whether the own registries speak for what the synchronizer read from that
// registry, or link. Caller holds mu.
func (b *Book) hears(registry string) bool {
	if b.via {
		_, ok := b.links[registry]
		return ok
	}
	// Before any word of the own registries none of them was read.
	return b.cfg.HasRegistry && b.unread != nil && !b.unread[registry]
}

// union merges two lists in identity order; of the same identity, the first list's is taken.
func union(a, b []*catalog.Instance) []*catalog.Instance {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0:
		return b
	}
	out := make([]*catalog.Instance, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch order := a[0].ID.Compare(b[0].ID); {
		case order <= 0:
			out = append(out, a[0])
			a = a[1:]
			if order == 0 {
				b = b[1:]
			}
		default:
			out = append(out, b[0])
			b = b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// findAllOwn notes anew which instances are of this agent's own node. Caller holds mu.
func (b *Book) findAllOwn() {
	names := map[catalog.Name]struct{}{}
	for n := range b.local {
		names[n] = struct{}{}
	}
	if b.mirror != nil {
		for _, n := range b.mirror.Names(b.cfg.Self.Cluster) {
			names[n] = struct{}{}
		}
	}
	b.findOwn(nil, maps.Keys(names))
}

// Port returns the port at which an own instance is delivered to, its application's or its
// sidecar's, 0 where nobody states it.
func (b *Book) Port(i *catalog.Instance) int {
	if b.cfg.Sidecars[i.Name] {
		_, port := b.Sidecar(i)
		return port
	}
	if i.Port > 0 {
		return i.Port
	}
	return b.cfg.Ports[i.Name]
}

// findOwn notes which instances of these names are of this agent's own node, beside those of
// other names in have. Readers see the old notes or the new ones, and nothing between. Caller
// holds mu.
func (b *Book) findOwn(have map[catalog.Name][]*catalog.Instance, names func(func(catalog.Name) bool)) {
	next := maps.Clone(have)
	if next == nil {
		next = map[catalog.Name][]*catalog.Instance{}
	}
	for n := range names {
		delete(next, n)
		list, _ := b.localList(n)
		for _, i := range list {
			if b.index.Owns(b.cfg.Self, i) && b.Port(i) > 0 {
				next[n] = append(next[n], i)
			}
		}
	}
	b.own.Store(&next)
	b.homes.Store(b.settle(next))
}

// Own returns the own node's instance with this identity.
func (b *Book) Own(id catalog.ID) (*catalog.Instance, bool) {
	for _, i := range (*b.own.Load())[id.Name] {
		if i.ID == id {
			return i, true
		}
	}
	return nil, false
}

// OwnApp returns the own node's instances of an app-id, in whatever namespace; of every app-id
// when it is empty.
func (b *Book) OwnApp(appID string) []*catalog.Instance {
	var out []*catalog.Instance
	for n, list := range *b.own.Load() {
		if appID == "" || n.Service == appID {
			out = append(out, list...)
		}
	}
	catalog.SortInstances(out)
	return out
}
