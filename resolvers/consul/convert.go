package consul

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/internal/catalog"
)

// service is what is held of one service of the catalogue.
type service struct {
	snap catalog.Snapshot
	tags string // of the catalogue's list, to see that something changed
	// index is the service's own as of the read; 0 before the first.
	index uint64
	// marks are the indexes at which its registrations were last modified.
	marks map[place]uint64
	// checkless says that an instance has no check of its own, so that no check's change tells of
	// it.
	checkless bool
}

// on reports whether it has a registration on one of the nodes.
func (s *service) on(nodes map[string]bool) bool {
	for at := range s.marks {
		if nodes[at.node] {
			return true
		}
	}
	return false
}

// place is where a registration stands: its node and its id there.
type place struct{ node, id string }

// askable reports whether Consul can be asked for a name: one that is too long to be a service's is of
// no use, and Consul refuses a longer question or cuts it off; and one must survive as the end of a
// URL's path: Consul's HTTP server would clean "a//b" or ".." and answer for something else.
func askable(name string) bool {
	return name != "" && len(name) <= catalog.MaxNameLength && path.Clean("/"+name) == "/"+name
}

// unaskable is the service that Consul lists under a name it cannot be asked for.
func unaskable(name string) *service {
	reason := "the name cannot be part of a URL's path, so Consul cannot be asked for it"
	if len(name) > catalog.MaxNameLength {
		reason = fmt.Sprintf("the name is too long: %d bytes, at most %d", len(name), catalog.MaxNameLength)
	}
	return &service{snap: catalog.Snapshot{Source: name, SetAside: []catalog.SetAside{{Record: plain(name, ""), Reason: reason}}}}
}

// convert makes the snapshot of one service out of Consul's answer for it. Consul looks names
// up without regard to case, and keeps proxies and gateways among the services, which no
// application calls; what is not this name's own is left out. Whether an instance's address,
// port and name can be used is its reader's to judge.
func convert(name, portKey string, index uint64, entries []*api.ServiceEntry) *service {
	s := &service{index: index, snap: catalog.Snapshot{Source: name}, marks: make(map[place]uint64, len(entries))}
	own := slices.DeleteFunc(slices.Clone(entries), func(e *api.ServiceEntry) bool {
		return e.Service.Service != name || e.Service.Kind != api.ServiceKindTypical
	})
	// The order decides who keeps an id that several nodes use. It must be the same for every
	// reader of this registry, and for each of them tomorrow.
	slices.SortFunc(own, func(a, b *api.ServiceEntry) int {
		return cmp.Or(cmp.Compare(a.Service.CreateIndex, b.Service.CreateIndex),
			cmp.Compare(a.Node.Node, b.Node.Node), cmp.Compare(a.Service.ID, b.Service.ID))
	})
	names := make(map[catalog.Name]bool)
	taken := make(map[catalog.ID]bool)
	for _, e := range own {
		s.marks[place{e.Node.Node, e.Service.ID}] = e.Service.ModifyIndex
		s.checkless = s.checkless || !slices.ContainsFunc(e.Checks, func(c *api.HealthCheck) bool { return c != nil && c.ServiceID != "" })
		inst, err := instance(e, portKey)
		names[inst.Name] = true
		if err == nil && taken[inst.ID] {
			inst.Instance += "@" + e.Node.Node
		}
		if err == nil && taken[inst.ID] {
			err = fmt.Errorf("id %s is taken by another instance", inst.Instance)
		}
		if err != nil {
			s.snap.SetAside = append(s.snap.SetAside, catalog.SetAside{
				Record: fmt.Sprintf("%s/%s on %s", name, e.Service.ID, e.Node.Node), Reason: err.Error(),
			})
			continue
		}
		taken[inst.ID] = true
		s.snap.Instances = append(s.snap.Instances, inst)
	}
	s.snap.Services = slices.SortedFunc(maps.Keys(names), catalog.Name.Compare)
	catalog.SortInstances(s.snap.Instances)
	return s
}

// instance converts one entry. With an error, only the identity of what it gives is of use.
func instance(e *api.ServiceEntry, portKey string) (*catalog.Instance, error) {
	svc := e.Service
	weight, err := weightOf(svc.Weights, statusOf(e.Checks))
	inst := &catalog.Instance{
		ID:       catalog.ID{Name: catalog.Name{Namespace: svc.Meta[NamespaceKey], Service: svc.Service}, Instance: svc.ID},
		Node:     e.Node.Node,
		Address:  cmp.Or(svc.Address, e.Node.Address),
		Port:     svc.DefaultPort(),
		Weight:   weight,
		Health:   healthOf(e.Checks),
		Metadata: svc.Meta,
		Revision: strconv.FormatUint(svc.ModifyIndex, 10),
	}
	if l := cmp.Or(svc.Locality, e.Node.Locality); l != nil {
		inst.Locality = catalog.Locality{Region: l.Region, Zone: l.Zone}
	}
	if err != nil {
		return inst, err
	}
	if port, ok := svc.Meta[portKey]; ok {
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil || p == 0 {
			return inst, fmt.Errorf("metadata %s: port %q is not in 1 to 65535", portKey, port)
		}
		inst.Relay = net.JoinHostPort(inst.Address, strconv.FormatUint(p, 10))
	}
	return inst, nil
}

// statusOf sums an instance's checks up, the node's included, as Consul does: maintenance before
// critical before warning before passing. Without any check it is "", and with a word that is
// none of Consul's it is critical.
func statusOf(checks api.HealthChecks) string {
	status, rank := "", 0
	for _, c := range checks {
		if c == nil {
			continue
		}
		word := c.Status
		if c.CheckID == api.NodeMaint || strings.HasPrefix(c.CheckID, api.ServiceMaintPrefix) {
			word = api.HealthMaint
		}
		r := 1 + slices.Index([]string{api.HealthPassing, api.HealthWarning, api.HealthCritical, api.HealthMaint}, word)
		if r == 0 {
			word, r = api.HealthCritical, 3
		}
		if r > rank {
			status, rank = word, r
		}
	}
	return status
}

// healthOf says Consul's health in Farcall's words (strategies.md, "Health").
//
//   - passing is HEALTHY, and so is warning: Consul itself goes on serving it and turns it down
//     by Weights.Warning, which stands in the weight.
//   - critical is UNHEALTHY, whether it is the application's check or its node's.
//   - maintenance, of the node or of the service, is DISABLED: a person took it out, and no
//     lack of others may bring it back. DRAINING would say that it is on its way out by itself.
//   - without any check, not even the node's, nothing is known: UNKNOWN, which counts as healthy.
func healthOf(checks api.HealthChecks) catalog.Health {
	switch statusOf(checks) {
	case "":
		return catalog.Unknown
	case api.HealthPassing, api.HealthWarning:
		return catalog.Healthy
	case api.HealthMaint:
		return catalog.Disabled
	default:
		return catalog.Unhealthy
	}
}

// weightOf gives the weight for a status. Consul states both weights, 1 where the registration
// did not; an answer without any means the same.
func weightOf(w api.AgentWeights, status string) (uint32, error) {
	weight := w.Passing
	if w == (api.AgentWeights{}) {
		weight = 1
	} else if status == api.HealthWarning {
		weight = w.Warning
	}
	if weight < 0 || weight > catalog.MaxInstanceWeight {
		return 0, fmt.Errorf("weight %d is not in 0 to %d", weight, catalog.MaxInstanceWeight)
	}
	return uint32(weight), nil
}

// sameList reports whether two snapshots of one source say the same, revisions apart.
func sameList(a, b catalog.Snapshot) bool {
	return slices.Equal(a.Services, b.Services) && slices.Equal(a.SetAside, b.SetAside) &&
		catalog.EqualLists(a.Instances, b.Instances)
}
