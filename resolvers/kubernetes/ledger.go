package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/farcall/farcall/internal/catalog"
)

// ledger is what is known of the cluster, and which sources that made new. A Service is a
// source, which states the name; each EndpointSlice is one, which states instances: so a change
// of one endpoint costs what its slice holds, not what the Service does.
type ledger struct {
	rule   rule
	groups map[key]*group
	// owners gives the Service of each EndpointSlice.
	owners map[key]string
	// names gives the Services that are taken under one name. As a rule it is one; where they are
	// several (an application's own and Dapr's), each adds to a Pod what the other does not say.
	names  map[catalog.Name][]key
	places map[string]place
	// dirty are the sources that are to be published, and whether something was taken out of them
	// on purpose.
	dirty map[source]bool
	// cluster is the uid of default/kubernetes, where that is known.
	cluster string
}

// key names an object in its namespace.
type key struct{ namespace, name string }

// home is the Service of the API server itself, which that makes when a cluster begins.
var home = key{metav1.NamespaceDefault, "kubernetes"}

func keyOf(o metav1.Object) key { return key{o.GetNamespace(), o.GetName()} }

// group is a Service and its EndpointSlices; either may be known before the other.
type group struct {
	service *service // nil while unknown
	slices  map[string]*endpointSlice
}

// taken reports whether the Service is there and taken.
func (g *group) taken() bool { return g != nil && g.service != nil && g.service.taken }

// wanted reports whether the Service is taken, or says in words that nobody understands whether it
// shall be.
func (g *group) wanted() bool {
	return g.service != nil && (g.service.taken || len(g.service.aside) > 0)
}

// told reports whether something of the Service is published.
func (g *group) told() bool {
	return g.wanted() || g.service != nil && g.service.remark != (catalog.SetAside{})
}

// family is the address type whose slices count: of a dual-stack Service, which has each Pod in
// a slice of each family, the first family of the Service that there are endpoints of. Kubernetes
// writes an empty slice for a family in which no Pod has an address.
func (g *group) family() discoveryv1.AddressType {
	if g.service == nil {
		return ""
	}
	for _, f := range g.service.families {
		for _, s := range g.slices { // as a rule the first one decides
			if s.family == f && len(s.endpoints) > 0 {
				return f
			}
		}
	}
	return ""
}

// counts reports whether a slice's endpoints are the Service's instances.
func (g *group) counts(s *endpointSlice) bool {
	return s.family == discoveryv1.AddressTypeFQDN || len(g.service.families) == 0 || s.family == g.family()
}

// source is one Service or one EndpointSlice.
type source struct {
	key
	slice bool
}

// String is its name in a Snapshot.
func (s source) String() string {
	if s.slice {
		return "endpointslice/" + s.namespace + "/" + s.name
	}
	return "service/" + s.namespace + "/" + s.name
}

func newLedger(r rule) *ledger {
	return &ledger{
		rule: r, groups: map[key]*group{}, owners: map[key]string{}, names: map[catalog.Name][]key{},
		places: map[string]place{}, dirty: map[source]bool{},
	}
}

// take takes in an object as it is now.
func (l *ledger) take(o runtime.Object) {
	switch o := o.(type) {
	case *corev1.Service:
		if keyOf(o) == home {
			l.cluster = string(o.UID)
		}
		l.takeService(keyOf(o), l.rule.read(o))
	case *discoveryv1.EndpointSlice:
		l.takeSlice(keyOf(o), readSlice(o))
	case *metav1.PartialObjectMetadata:
		l.takeNode(o.Name, place{o.Labels[corev1.LabelTopologyRegion], o.Labels[corev1.LabelTopologyZone]})
	}
}

// drop takes in that an object was deleted.
func (l *ledger) drop(o runtime.Object) {
	switch o := o.(type) {
	case *corev1.Service:
		if keyOf(o) == home {
			l.cluster = ""
		}
		l.dropService(keyOf(o))
	case *discoveryv1.EndpointSlice:
		l.dropSlice(keyOf(o))
	case *metav1.PartialObjectMetadata:
		l.takeNode(o.Name, place{})
	}
}

func (l *ledger) group(k key) *group {
	g := l.groups[k]
	if g == nil {
		g = &group{slices: map[string]*endpointSlice{}}
		l.groups[k] = g
	}
	return g
}

// forget drops a group of which nothing is known any more.
func (l *ledger) forget(k key) {
	if g := l.groups[k]; g.service == nil && len(g.slices) == 0 {
		delete(l.groups, k)
	}
}

func (l *ledger) takeService(k key, is *service) {
	g := l.group(k)
	was := g.service
	if was != nil && was.same(is) {
		g.service = is
		return
	}
	told, wanted := was != nil && g.told(), was != nil && g.wanted()
	if was != nil && was.sameInstances(is) {
		g.service = is
		l.mark(k, false) // its slices have nothing new to tell
		return
	}
	l.unname(k, was)
	g.service = is
	if is.taken {
		l.names[is.name] = append(l.names[is.name], k)
		slices.SortFunc(l.names[is.name], key.compare)
	}
	if !told && !g.told() {
		return
	}
	// Whoever changes a Service so that its name goes, or its external host, does so on purpose; one
	// whose annotation is no word that is known said nothing.
	gone := wanted && !g.wanted() || was != nil && was.taken && is.taken && was.name != is.name
	l.mark(k, gone || was != nil && was.external != is.external)
	renumbered := was != nil && (was.port != is.port || !slices.Equal(was.ports, is.ports))
	for name, s := range g.slices {
		l.markSlice(key{k.namespace, name}, gone || renumbered && s.numbered())
	}
	l.markOthers(k, nil)
}

func (l *ledger) dropService(k key) {
	g := l.groups[k]
	if g == nil || g.service == nil {
		return
	}
	if g.told() {
		l.mark(k, true)
		l.markSlices(k, true)
	}
	l.unname(k, g.service)
	g.service = nil
	l.forget(k)
}

// unname takes a Service away from those that are taken under its name, and has the others
// published anew.
func (l *ledger) unname(k key, s *service) {
	if s == nil || !s.taken {
		return
	}
	l.markOthers(k, nil)
	rest := slices.DeleteFunc(l.names[s.name], func(o key) bool { return o == k })
	if l.names[s.name] = rest; len(rest) == 0 {
		delete(l.names, s.name)
	}
}

func (l *ledger) takeSlice(k key, is *endpointSlice) {
	if owner, ok := l.owners[k]; ok && owner != is.owner {
		l.dropSlice(k)
	}
	if is.owner == "" {
		return
	}
	service := key{k.namespace, is.owner}
	g := l.group(service)
	was, before := g.slices[k.name], g.family()
	g.slices[k.name], l.owners[k] = is, is.owner
	if !g.taken() {
		return
	}
	l.markSlice(k, was != nil && lost(was, is))
	if l.markFamily(service, before) {
		return
	}
	if differ := differing(was, is); len(differ) > 0 {
		l.markOthers(service, differ)
	}
}

func (l *ledger) dropSlice(k key) {
	owner, ok := l.owners[k]
	if !ok {
		return
	}
	service := key{k.namespace, owner}
	g := l.groups[service]
	was, before := g.slices[k.name], g.family()
	delete(g.slices, k.name)
	delete(l.owners, k)
	if g.taken() {
		l.markSlice(k, true)
		l.markFamily(service, before)
		if gone := differing(was, &endpointSlice{}); len(gone) > 0 {
			l.markOthers(service, gone)
		}
	}
	l.forget(service)
}

func (l *ledger) takeNode(name string, is place) {
	if l.places[name] == is {
		return
	}
	l.places[name] = is
	if is == (place{}) {
		delete(l.places, name)
	}
	on := func(e endpoint) bool { return e.node == name }
	for k, g := range l.groups {
		if !g.taken() {
			continue
		}
		for slice, s := range g.slices {
			if slices.ContainsFunc(s.endpoints, on) {
				l.markSlice(key{k.namespace, slice}, false)
			}
		}
	}
}

// mark has a Service published. Purpose says that something was taken out of it on purpose.
func (l *ledger) mark(k key, purpose bool) {
	l.dirty[source{k, false}] = l.dirty[source{k, false}] || purpose
}

// markSlice does so for an EndpointSlice.
func (l *ledger) markSlice(k key, purpose bool) {
	l.dirty[source{k, true}] = l.dirty[source{k, true}] || purpose
}

// markSlices does so for the EndpointSlices of a Service.
func (l *ledger) markSlices(k key, purpose bool) {
	for name := range l.groups[k].slices {
		l.markSlice(key{k.namespace, name}, purpose)
	}
}

// markFamily marks all where other slices of a Service count than before, and says whether they do.
// Where there were no endpoints of any family, or are none, there is nothing else to tell.
func (l *ledger) markFamily(k key, before discoveryv1.AddressType) bool {
	if is := l.groups[k].family(); is == before || is == "" || before == "" {
		return false
	}
	l.markSlices(k, false)
	l.markOthers(k, nil)
	return true
}

// markOthers marks the slices of the other Services that are taken under the same name: those
// that have an endpoint of these keys, or all where keys is nil.
func (l *ledger) markOthers(k key, keys map[string]struct{}) {
	g := l.groups[k]
	if !g.taken() {
		return
	}
	for _, other := range l.names[g.service.name] {
		if other == k {
			continue
		}
		for name, s := range l.groups[other].slices {
			if keys == nil || s.has(keys) {
				l.markSlice(key{other.namespace, name}, false)
			}
		}
	}
}

// changes gives the sources that are new: first those from which nothing was taken on purpose,
// then the others. Where something had to be set aside, nobody can tell what of the rest was taken
// away on purpose. It is empty afterwards.
func (l *ledger) changes() (plain, purpose []catalog.Snapshot) {
	for _, s := range sorted(l.dirty) {
		if snap := l.snapshot(s); l.dirty[s] && !l.unclear(s, snap) {
			purpose = append(purpose, snap)
		} else {
			plain = append(plain, snap)
		}
	}
	clear(l.dirty)
	return plain, purpose
}

// unclear reports whether something of a source had to be set aside on which the rest depends.
func (l *ledger) unclear(s source, snap catalog.Snapshot) bool {
	remarks := 0
	if g := l.groups[s.key]; !s.slice && g != nil && g.service != nil && g.service.remark != (catalog.SetAside{}) {
		remarks = 1
	}
	return len(snap.SetAside) > remarks
}

// everything gives every source that is published, and counts as having told all changes.
func (l *ledger) everything() []catalog.Snapshot {
	clear(l.dirty)
	for k, g := range l.groups {
		if g.told() {
			l.mark(k, false)
		}
		if g.taken() {
			l.markSlices(k, false)
		}
	}
	all, _ := l.changes()
	return all
}

// snapshot makes the snapshot of a source; an empty one where it is told no more.
func (l *ledger) snapshot(s source) catalog.Snapshot {
	if s.slice {
		return l.sliceSnapshot(s)
	}
	snap := catalog.Snapshot{Source: s.String()}
	g := l.groups[s.key]
	if g == nil || g.service == nil {
		return snap
	}
	snap.SetAside = g.service.aside
	if g.service.remark != (catalog.SetAside{}) {
		snap.SetAside = append(slices.Clip(snap.SetAside), g.service.remark)
	}
	if g.service.taken {
		snap.Services = []catalog.Name{g.service.name}
		if g.service.strategy != "" {
			snap.Strategies = map[catalog.Name]string{g.service.name: g.service.strategy}
		}
		l.outside(s.key, g.service, &snap)
	}
	return snap
}

func (l *ledger) sliceSnapshot(s source) catalog.Snapshot {
	snap := catalog.Snapshot{Source: s.String()}
	owner, ok := l.owners[s.key]
	service := key{s.namespace, owner}
	g := l.groups[service]
	if !ok || !g.taken() {
		return snap
	}
	from := g.slices[s.name]
	if g.counts(from) {
		snap.Instances, snap.SetAside = g.service.instances(from, l.places)
		l.complete(service, g.service, snap.Instances)
	} else if len(from.endpoints) > 0 && !slices.Contains(g.service.families, from.family) {
		snap.SetAside = []catalog.SetAside{{
			Record: "EndpointSlice " + s.namespace + "/" + s.name,
			Reason: fmt.Sprintf("its addresses are %s, the Service's are %v", from.family, g.service.families),
		}}
	}
	return snap
}

func (l *ledger) outside(k key, s *service, snap *catalog.Snapshot) {
	if s.external == "" {
		return
	}
	in, err := s.outside()
	if err != nil {
		snap.SetAside = append(slices.Clip(snap.SetAside), catalog.SetAside{Record: k.namespace + "/" + k.name, Reason: err.Error()})
		return
	}
	snap.Instances = []*catalog.Instance{in}
}

// complete adds to instances the port and the relay that only another Service under the same
// name states. It looks through what all of these hold, where there is more than one.
func (l *ledger) complete(k key, s *service, list []*catalog.Instance) {
	if len(l.names[s.name]) < 2 {
		return
	}
	lacking := map[string]*catalog.Instance{}
	for _, in := range list {
		if in.Port == 0 || in.Relay == "" {
			lacking[in.Instance] = in
		}
	}
	for _, other := range l.names[s.name] {
		if other == k || len(lacking) == 0 {
			continue
		}
		g := l.groups[other]
		for _, from := range g.slices {
			app, err := g.service.appPort(from.ports)
			if err != nil || !g.counts(from) {
				continue
			}
			relay := relayPort(from.ports)
			for _, e := range from.endpoints {
				if in := lacking[e.id(app, relay)]; in != nil {
					in.Port = cmp.Or(in.Port, app)
					in.Relay = cmp.Or(in.Relay, e.relay(relay))
				}
			}
		}
	}
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.namespace, o.namespace), cmp.Compare(k.name, o.name))
}

func sorted(set map[source]bool) []source {
	return slices.SortedFunc(maps.Keys(set), func(a, b source) int {
		if c := a.compare(b.key); c != 0 {
			return c
		}
		return cmp.Compare(a.String(), b.String())
	})
}
