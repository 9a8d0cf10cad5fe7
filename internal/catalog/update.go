package catalog

import "time"

// Update is what one read of a registry found. A read that failed or came back in part makes
// no Update: stale beats partial.
type Update struct {
	// Snapshots each replace all that was known of their source.
	Snapshots []Snapshot
	// Full says that Snapshots cover everything the registry has: sources not among them are
	// gone. The first Update of a resolver must be Full, else nobody could tell an empty
	// registry from an unread one.
	Full bool
	// Explicit says that what this Update leaves out was removed on purpose (a live Kubernetes
	// DELETE, an mDNS goodbye, an edit of a file), not merely absent from a list.
	Explicit bool
	// Reset says in words why the registry looks like another or a younger one than before
	// (index backwards, identity changed); empty when it does not.
	Reset string
	// Revision is the registry's own, for people.
	Revision string
}

// Snapshot is the complete list of one source at one moment; an empty list means none.
type Snapshot struct {
	// Source is the unit of replacement inside a registry (one service of a Consul, one
	// EndpointSlice, one file): opaque outside the resolver, stable over its life.
	Source string
	// Services are the names the source states to exist, in the registry's own namespaces;
	// empty Namespace where it has none. Those without an instance are confirmed empty.
	Services []Name
	// Strategies are those that the source states for callers in the registry's own cluster, by
	// names that are among Services, in the canonical spelling of package strategy.
	Strategies map[Name]string
	// Instances carry the registry's own namespace, or an empty one; Cluster and Registry are
	// filled in by the reader.
	Instances []*Instance
	// SetAside are records that could not be used at all.
	SetAside []SetAside
}

// SetAside is a record that was not used, and why.
type SetAside struct {
	Record string
	Reason string
}

// String gives "record: reason", or nothing for the zero value.
func (s SetAside) String() string {
	if s == (SetAside{}) {
		return ""
	}
	return s.Record + ": " + s.Reason
}

// RegistryState is where the reading of a registry stands.
type RegistryState uint8

// The zero value is RegistryPending.
const (
	RegistryPending RegistryState = iota // not read yet
	RegistryOK
	RegistryFailed
)

// RegistryStatus is what is known of one registry of a cluster.
type RegistryStatus struct {
	Name        string
	State       RegistryState
	Complete    bool      // it was read completely at least once since this process began
	LastError   string    // in words; empty when State is RegistryOK
	LastSuccess time.Time // of the last Publish or Confirm; zero: never
	Revision    string
	Services    int
	Instances   int
	Held        int // removals that the guard holds back
	SetAside    int // records set aside in what stands now
	// SetAsides are the first few of them, "record: reason", joined by "; ".
	SetAsides string
	// Strategies are those that the registry states for callers in the cluster, by our names; nil
	// where it states none. The map is not changed.
	Strategies map[Name]string
	// Shadowed are records of instances of which another record is believed: of a registry that
	// is configured before this one, or of another source of its own.
	Shadowed int
}
