// Package identity is who a process of the federation is, and whom it speaks with: SPIFFE
// identities (SPIFFE-ID and X.509-SVID specifications), where a process gets its own from and how
// that changes while it runs, and the TLS that both sides of every connection between processes
// show them over.
//
// It does not say what somebody may do once it is known who it is; it hands out identities and
// Authorise functions for those who decide. It makes no certificates: its subfolder authority does.
//
// Goroutines: none but Source.Run's and Certificate.Run's own, and those of the Workload API's client,
// which end with them.
package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/farcall/farcall/internal/catalog"
)

// Role is what kind of process, or person, an identity is of.
type Role string

// The roles, by the words that stand in identities.
const (
	Synchronizer Role = "synchronizer"
	Agent        Role = "agent"
	User         Role = "user"
)

// ID is an identity of a trust domain, which is one federation's, or shared by several:
//
//	spiffe://<trust domain>/synchronizer/<group>
//	spiffe://<trust domain>/cluster/<cluster>/agent/<node>
//	spiffe://<trust domain>/user/<name>
//
// It is comparable; the zero ID is nobody's.
type ID struct {
	TrustDomain string
	Role        Role
	// Cluster is an agent's; empty for the other roles.
	Cluster string
	// Name is an agent's node, a synchronizer's group (the replicas that are entitled to the same
	// clusters), or a user's name.
	Name string
}

// AgentID is the identity of the agent of one node.
func AgentID(trustDomain, cluster, node string) ID {
	return ID{TrustDomain: trustDomain, Role: Agent, Cluster: cluster, Name: node}
}

// String gives the identity as a URI.
func (id ID) String() string {
	if id.Role == Agent {
		return fmt.Sprintf("spiffe://%s/cluster/%s/agent/%s", id.TrustDomain, id.Cluster, id.Name)
	}
	return fmt.Sprintf("spiffe://%s/%s/%s", id.TrustDomain, id.Role, id.Name)
}

// Check says why nobody can have the identity, or nil.
func (id ID) Check() error {
	back, err := Parse(id.String())
	if err == nil && back != id {
		err = fmt.Errorf("%s is not an identity of Farcall", id)
	}
	return err
}

// Parse reads an identity as String writes it. The error quotes what it was given, cut short.
func Parse(uri string) (ID, error) {
	s, err := spiffeid.FromString(uri)
	if err != nil {
		return ID{}, fmt.Errorf("%.200q: %w", uri, err)
	}
	return parse(s)
}

// CheckName says why s cannot name a node, a group or a user in an identity, or nil: it stands in a
// path, of which SPIFFE takes letters, digits, dots, dashes and underscores.
func CheckName(s string) error {
	if len(s) > catalog.MaxNameLength {
		return fmt.Errorf("%.20q... is longer than %d", s, catalog.MaxNameLength)
	}
	if err := spiffeid.ValidatePathSegment(s); err != nil {
		return fmt.Errorf("%q cannot stand in a SPIFFE identity: want letters, digits, dots, dashes and underscores", s)
	}
	return nil
}

// CheckTrustDomain says why s cannot be a trust domain, or nil.
func CheckTrustDomain(s string) error {
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil || td.Name() != s {
		return fmt.Errorf("%q is not a trust domain: want lower-case letters, digits, dots, dashes and underscores, such as example.org", s)
	}
	return nil
}

func parse(s spiffeid.ID) (ID, error) {
	id := ID{TrustDomain: s.TrustDomain().Name()}
	bad := fmt.Errorf("%.200q is the identity of neither a synchronizer, an agent nor a user", s.String())
	parts := strings.Split(strings.TrimPrefix(s.Path(), "/"), "/")
	switch {
	case len(parts) == 4 && parts[0] == "cluster" && parts[2] == string(Agent):
		id.Role, id.Cluster, id.Name = Agent, parts[1], parts[3]
		if err := catalog.CheckClusterName(id.Cluster); err != nil {
			return ID{}, fmt.Errorf("%w: %w", bad, err)
		}
	case len(parts) == 2 && (parts[0] == string(Synchronizer) || parts[0] == string(User)):
		id.Role, id.Name = Role(parts[0]), parts[1]
	default:
		return ID{}, bad
	}
	if err := CheckName(id.Name); err != nil {
		return ID{}, fmt.Errorf("%w: %w", bad, err)
	}
	return id, nil
}

// Authorise says why the other side of a connection, who proved its identity, is not whom it may be,
// or nil. It is safe for concurrent use and does not block.
type Authorise func(ID) error

// Any lets in whoever has one of the roles, whatever its name.
func Any(roles ...Role) Authorise {
	return func(id ID) error {
		for _, r := range roles {
			if id.Role == r {
				return nil
			}
		}
		words := make([]string, len(roles))
		for i, r := range roles {
			words[i] = string(r)
		}
		return &Refusal{Reason: ReasonRole, Why: fmt.Sprintf("its role is %s, where %s is wanted", id.Role, strings.Join(words, " or "))}
	}
}

// AgentOf lets in the agent of one node, or with an empty node any agent of the cluster.
func AgentOf(cluster, node string) Authorise {
	return func(id ID) error {
		if err := Any(Agent)(id); err != nil {
			return err
		}
		if id.Cluster != cluster || node != "" && id.Name != node {
			want := "an agent of cluster " + cluster
			if node != "" {
				want = fmt.Sprintf("the agent of %s/%s", cluster, node)
			}
			return &Refusal{Reason: ReasonOther, Why: fmt.Sprintf("it is the agent of %s/%s, where %s is wanted", id.Cluster, id.Name, want)}
		}
		return nil
	}
}
