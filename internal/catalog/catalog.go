// Package catalog holds the domain: what an instance, a service, a cluster and one read of a
// registry are, and which records are usable. Every other room speaks these types.
//
// It is not a store and does no I/O; it reads no clock and runs no goroutines. Values are
// immutable once they were handed to another room: whoever wants a changed one makes a copy.
package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// DefaultNamespace is where services live that nobody put elsewhere.
const DefaultNamespace = "default"

// Name is what callers use: a service in a namespace. It is the same in every cluster.
type Name struct {
	Namespace string
	Service   string
}

// String gives "namespace/service".
func (n Name) String() string { return n.Namespace + "/" + n.Service }

// Compare orders names by namespace, then service.
func (n Name) Compare(o Name) int {
	if c := cmp.Compare(n.Namespace, o.Namespace); c != 0 {
		return c
	}
	return cmp.Compare(n.Service, o.Service)
}

// ParseName reads what an application writes for a service: "app" or "app.namespace", as
// Dapr does (at most one dot), or "namespace/app" as String prints it. Where s names no
// namespace, ns is used; where that is empty too, DefaultNamespace.
func ParseName(s, ns string) (Name, error) {
	if ns == "" {
		ns = DefaultNamespace
	}
	n := Name{Namespace: ns, Service: s}
	if before, after, ok := strings.Cut(s, "/"); ok {
		n = Name{Namespace: before, Service: after}
	} else if before, after, ok := strings.Cut(s, "."); ok {
		n = Name{Namespace: after, Service: before}
		if strings.Contains(after, ".") {
			return Name{}, fmt.Errorf("service %q has more than one dot: write app-id or app-id.namespace", s)
		}
	}
	if err := n.Check(); err != nil {
		return Name{}, err
	}
	return n, nil
}

// ID is the identity of an instance. Address and port are a hint only.
type ID struct {
	Cluster string
	Name
	Instance string
}

// String gives "cluster/namespace/service/instance".
func (id ID) String() string { return id.Cluster + "/" + id.Name.String() + "/" + id.Instance }

// Compare orders identities by cluster, namespace, service and instance.
func (id ID) Compare(o ID) int {
	// Not cmp.Or, which would make all comparisons each time: long lists are ordered by this.
	if c := cmp.Compare(id.Cluster, o.Cluster); c != 0 {
		return c
	}
	if c := id.Name.Compare(o.Name); c != 0 {
		return c
	}
	return cmp.Compare(id.Instance, o.Instance)
}

// Locality says where an instance or a caller is; empty fields are unknown.
type Locality struct {
	Region string
	Zone   string
}

// Instance is one running copy of a service.
type Instance struct {
	ID
	// Node is the machine it runs on, as the registry names it; empty where it does not say.
	Node     string
	Locality Locality
	// Address is the application's own IP address or host name, without a port. Only the agent
	// of its node dials it.
	Address string
	// Port is the application's own; 0 where the registry states only a relay. It is an int so
	// that a registry's nonsense (70000) can be told rather than wrapped.
	Port int
	// Relay is host:port where CallLocal is served for it, where the registry states one.
	Relay string
	// Weight is relative to the other instances of the service; 0 takes no calls.
	Weight   uint32
	Health   Health
	Metadata map[string]string
	// Registry names the registry that said so; Revision is that registry's own, for people.
	Registry string
	Revision string
}

// Equal reports whether i and o say the same, Revision apart: a registry that rewrites a
// record without changing it has changed nothing.
func (i *Instance) Equal(o *Instance) bool {
	if i.ID != o.ID || i.Node != o.Node || i.Locality != o.Locality || i.Address != o.Address ||
		i.Port != o.Port || i.Relay != o.Relay || i.Weight != o.Weight || i.Health != o.Health ||
		i.Registry != o.Registry || len(i.Metadata) != len(o.Metadata) {
		return false
	}
	for k, v := range i.Metadata {
		if w, ok := o.Metadata[k]; !ok || w != v {
			return false
		}
	}
	return true
}

// String gives "cluster/namespace/service/instance address:port via relay HEALTH".
func (i *Instance) String() string {
	s := fmt.Sprintf("%s %s:%d", i.ID, i.Address, i.Port)
	if i.Relay != "" {
		s += " via " + i.Relay
	}
	return s + " " + i.Health.String()
}

// SortInstances orders a list by identity, in place.
func SortInstances(list []*Instance) {
	slices.SortFunc(list, func(a, b *Instance) int { return a.ID.Compare(b.ID) })
}

// EqualLists reports whether two lists, both in identity order, say the same.
func EqualLists(a, b []*Instance) bool {
	return slices.EqualFunc(a, b, func(x, y *Instance) bool { return x == y || x.Equal(y) })
}

// Health uses the words of Envoy's EDS.
type Health uint8

// The zero value is Unknown: registries that know no health count as healthy.
const (
	Unknown Health = iota
	Healthy
	Unhealthy
	Draining
	Disabled
)

var healthWords = [...]string{"UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "DISABLED"}

// String gives the word as it stands in every API and file.
func (h Health) String() string {
	if int(h) < len(healthWords) {
		return healthWords[h]
	}
	return fmt.Sprintf("HEALTH(%d)", uint8(h))
}

// ParseHealth reads one of the five words, spelt exactly.
func ParseHealth(s string) (Health, error) {
	if i := slices.Index(healthWords[:], s); i >= 0 {
		return Health(i), nil
	}
	return 0, fmt.Errorf("unknown health %q: want %s", s, strings.Join(healthWords[:], ", "))
}

// Serving reports whether calls may go to an instance of this health in the ordinary case.
func (h Health) Serving() bool { return h == Healthy || h == Unknown }

// ClusterState is how much a reader may trust what it holds of a cluster.
type ClusterState uint8

// The zero value is StateUnknown: nothing may be concluded from an absence.
const (
	StateUnknown   ClusterState = iota // never synced
	StateSynced                        // confirmed within the last 3 s
	StateStale                         // no confirmed data for 3 s; says nothing about reachability
	StateProtected                     // a suspicious removal is held
	StateExpired                       // staleTTL has passed
	StateRemoved                       // its hold was released, or it is exported no more
)

var stateWords = [...]string{"UNKNOWN", "SYNCED", "STALE", "PROTECTED", "EXPIRED", "REMOVED"}

// String gives the word as it stands in every API.
func (s ClusterState) String() string {
	if int(s) < len(stateWords) {
		return stateWords[s]
	}
	return fmt.Sprintf("STATE(%d)", uint8(s))
}
