package dns

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"

	miekg "github.com/miekg/dns"

	"github.com/farcall/farcall/internal/catalog"
)

// The metadata of an instance that an SRV record states.
const (
	PriorityKey = "srv-priority"
	WeightKey   = "srv-weight"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// snapshot begins what is published of a service for an outcome: one whose name does not exist
// is named by nobody, and set aside as a hint to a misspelt name.
func (s service) snapshot(o outcome, broken string) catalog.Snapshot {
	snap := catalog.Snapshot{Source: s.source}
	switch {
	case o == noName:
		snap.SetAside = append(snap.SetAside, catalog.SetAside{
			Record: s.ask.name, Reason: "no such name (NXDOMAIN): the service is taken for absent",
		})
		return snap
	case broken != "":
		snap.SetAside = append(snap.SetAside, catalog.SetAside{Record: s.ask.name, Reason: broken})
	}
	snap.Services = []catalog.Name{s.name}
	return snap
}

// addressSnapshot makes an instance of each address; the address is its id.
func (s service) addressSnapshot(h hosts) catalog.Snapshot {
	snap := s.snapshot(h.outcome, h.broken)
	for _, a := range h.addrs {
		snap.Instances = append(snap.Instances, s.instance(a.String(), a, s.appPort, s.relayPort))
	}
	snap.SetAside = append(snap.SetAside, emptyRecords(s.ask.name, h)...)
	catalog.SortInstances(snap.Instances)
	return snap
}

func emptyRecords(name string, h hosts) []catalog.SetAside {
	if h.empty == 0 {
		return nil
	}
	return []catalog.SetAside{{Record: name, Reason: fmt.Sprintf("%d address records without an address", h.empty)}}
}

// srvSnapshot makes instances of SRV records (RFC 2782): one of each target and port, or of each
// of its addresses where it has several.
//
// Farcall has no order of preference inside a cluster, and who is preferred must get the calls. So
// only the targets of the lowest priority among those that have an address take calls; the others
// are listed with weight 0.
func (s service) srvSnapshot(srv *set, targets map[string]hosts) catalog.Snapshot {
	snap := s.snapshot(srv.outcome, srv.broken)
	records := srvRecords(srv.records)
	best := -1
	for _, r := range records {
		if best < 0 && unusable(r, targets[canonical(r.Target)], len(records)) == "" && r.Target != "." {
			best = int(r.Priority)
		}
	}
	told := map[string]bool{}
	for _, r := range records {
		name := canonical(r.Target)
		h := targets[name]
		if reason := unusable(r, h, len(records)); reason != "" {
			h.addrs = nil
			snap.SetAside = append(snap.SetAside, catalog.SetAside{Record: fmt.Sprintf("%s %s:%d", s.ask, name, r.Port), Reason: reason})
		}
		if !told[name] {
			snap.SetAside = append(snap.SetAside, emptyRecords(name, h)...)
			told[name] = true
		}
		for _, a := range h.addrs {
			in := s.srvInstance(r, a, len(h.addrs) > 1)
			if int(r.Priority) > best {
				in.Weight = 0
			}
			snap.Instances = append(snap.Instances, in)
		}
	}
	// The sort is stable: of two records for the same target and port, the preferred one is first,
	// which is the one that intake takes.
	slices.SortStableFunc(snap.Instances, func(a, b *catalog.Instance) int { return a.ID.Compare(b.ID) })
	return snap
}

// srvRecords gives the records in the order of preference.
func srvRecords(records []miekg.RR) []*miekg.SRV {
	out := make([]*miekg.SRV, 0, len(records))
	for _, rr := range records {
		if r, ok := rr.(*miekg.SRV); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *miekg.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(canonical(a.Target), canonical(b.Target)),
			cmp.Compare(a.Port, b.Port), cmp.Compare(b.Weight, a.Weight))
	})
	return out
}

// unusable says why no instance comes of an SRV record, or "".
func unusable(r *miekg.SRV, h hosts, records int) string {
	switch {
	case r.Target == "":
		return "the record is empty"
	case r.Target == "." && records == 1:
		return "" // "decidedly not available" (RFC 2782): that is no mistake
	case r.Target == ".":
		return `its target is ".", which says that the service is not available, but others are listed beside it`
	case r.Port == 0:
		return "port 0: nobody could deliver to it"
	case len(h.addrs) > 0:
		return ""
	case h.broken != "":
		return "target: " + h.broken
	case h.outcome == noName:
		return "no such target (NXDOMAIN)"
	case h.lost != nil:
		return "its target's addresses cannot be read, and never were: " + h.lost.Error()
	}
	return "its target has no address"
}

func (s service) srvInstance(r *miekg.SRV, a netip.Addr, severalAddresses bool) *catalog.Instance {
	appPort, relayPort := s.appPort, int(r.Port)
	if s.fromRecord == PortApp {
		appPort, relayPort = int(r.Port), s.relayPort
	}
	id := canonical(r.Target) + ":" + strconv.Itoa(int(r.Port))
	if severalAddresses {
		id += "@" + a.String()
	}
	in := s.instance(id, a, appPort, relayPort)
	// Where others weigh more, RFC 2782 gives weight 0 "a very small chance"; here it would give
	// none. Where all are 0, they are equal.
	in.Weight = max(uint32(r.Weight), 1)
	in.Metadata = map[string]string{
		PriorityKey: strconv.Itoa(int(r.Priority)),
		WeightKey:   strconv.Itoa(int(r.Weight)),
	}
	return in
}

func (s service) instance(id string, a netip.Addr, appPort, relayPort int) *catalog.Instance {
	in := &catalog.Instance{
		ID:      catalog.ID{Name: s.name, Instance: id},
		Address: a.String(),
		Port:    appPort,
		Weight:  1,
	}
	if relayPort != 0 {
		in.Relay = net.JoinHostPort(in.Address, strconv.Itoa(relayPort))
	}
	return in
}

// sameList reports whether two snapshots of one source say the same.
func sameList(a, b catalog.Snapshot) bool {
	return slices.Equal(a.Services, b.Services) && slices.Equal(a.SetAside, b.SetAside) &&
		catalog.EqualLists(a.Instances, b.Instances)
}
