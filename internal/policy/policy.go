// Package policy holds what people write about calls: policies, which say how calls of some
// services are treated, and cordons, which take a cluster or a service of it out of everybody's
// choice. It reads them strictly, names them, and says which setting is in force for a call and
// who stated it.
//
// It decides nothing about instances; package strategy does, from what is in force. It keeps
// nothing, does no I/O, reads no clock and runs no goroutines.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// maxSize bounds the encoded form of one policy as it is written, in bytes: every agent holds all of
// them. What is stored of it is longer, by its revision and by what stated blocks left out, and must
// not be refused by those who read it.
const (
	maxSize     = 64 << 10
	maxReadSize = 2 * maxSize
)

// Policy is one policy, valid and in its canonical form. It is not changed once it is made.
type Policy struct {
	Target Target
	// From are the clusters whose callers it is for, sorted and without doubles; empty: all.
	From     []string
	Settings Settings
	// Revision of all policies and cordons that wrote it; 0 where it was not stored.
	Revision uint64
	// Since is when it was written, in UTC, and Author who wrote it: for people.
	Since  time.Time
	Author string
}

// FromProto reads a policy strictly. Its error is an Errors with every mistake. Aliases of
// strategies are taken and put into their canonical form, as is the order of From; what a stated
// block leaves out is filled in.
func FromProto(m *policyv1.Policy) (*Policy, error) { return fromProto(m, maxSize) }

func fromProto(m *policyv1.Policy, limit int) (*Policy, error) {
	r := &reader{}
	r.newer("", m.ProtoReflect())
	if size := proto.Size(m); size > limit {
		r.addf("", "is of %d bytes: a policy has at most %d", size, limit)
		return nil, r.errs
	}
	p := &Policy{Revision: m.GetRevision()}
	p.Target = r.target(m.GetTarget())
	p.From = r.from(m.GetFrom())
	if p.Target.Cluster != "" && len(p.From) > 0 {
		r.addf("from", "is not for the policy of a cluster, which is for the callers in that cluster and no others")
	}
	p.Settings = r.settings(m.GetSettings())
	if p.Settings.Empty() && !r.unknown {
		r.addf("", "states nothing: want at least one of %s", strings.Join(Keys(), ", "))
	}
	p.Since = r.timestamp("since", m.GetSince())
	p.Author = r.text("author", m.GetAuthor())
	if err := r.err(); err != nil {
		return nil, err
	}
	return p, nil
}

// Read is FromProto for those who did not write the policy but must follow it: its error is an
// ErrNewer, which holds what FromProto says.
func Read(m *policyv1.Policy) (*Policy, error) {
	p, err := fromProto(m, maxReadSize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNewer, err)
	}
	return p, nil
}

// Proto gives the policy as it is stored and sent. FromProto gives the same policy back.
func (p *Policy) Proto() *policyv1.Policy {
	return &policyv1.Policy{
		Target:   p.Target.Proto(),
		From:     slices.Clone(p.From),
		Settings: p.Settings.Proto(),
		Revision: p.Revision,
		Since:    timestamp(p.Since),
		Author:   p.Author,
	}
}

// ID is what tells policies apart: one of each target and From exists. It is the text of a key:
// ParseID takes it back, and "/" parts its segments.
func (p *Policy) ID() string { return FormatID(p.Target, p.From) }

// String gives "service default/cart", and " from east,west" where it is limited.
func (p *Policy) String() string { return describe(p.Target, p.From) }

func describe(t Target, from []string) string {
	if len(from) == 0 {
		return t.String()
	}
	return t.String() + " from " + strings.Join(from, ",")
}

// Target is what a policy is about: exactly one of a service (Name), all services of a namespace
// (Name.Namespace alone), and all calls of a cluster's callers (Cluster alone).
type Target struct {
	Name    catalog.Name
	Cluster string
}

// TargetFromProto reads a target strictly. A service without a namespace is in the default one.
// Its error is an Errors.
func TargetFromProto(m *policyv1.Target) (Target, error) {
	r := &reader{}
	r.newer("", m.ProtoReflect())
	t := r.target(m)
	if err := r.err(); err != nil {
		return Target{}, err
	}
	return t, nil
}

// Proto gives the target as it is stored and sent.
func (t Target) Proto() *policyv1.Target {
	return &policyv1.Target{Service: t.Name.Service, Namespace: t.Name.Namespace, Cluster: t.Cluster}
}

// String gives "service default/cart", "namespace shop" or "cluster east".
func (t Target) String() string {
	switch {
	case t.Cluster != "":
		return "cluster " + t.Cluster
	case t.Name.Service != "":
		return "service " + t.Name.String()
	}
	return "namespace " + t.Name.Namespace
}

// Check says why nothing can be said about t, or nil.
func (t Target) Check() error {
	switch named := t.Name != (catalog.Name{}); {
	case !named && t.Cluster == "":
		return errors.New("names nobody: want a service, a namespace or a cluster")
	case named && t.Cluster != "":
		return errors.New("names a cluster beside a service or a namespace: want one of them")
	case t.Cluster != "":
		return catalog.CheckClusterName(t.Cluster)
	case t.Name.Service == "":
		return checkNamespace(t.Name.Namespace)
	}
	return t.Name.Check()
}

func checkNamespace(ns string) error { return catalog.Name{Namespace: ns, Service: "any"}.Check() }

// compare orders targets from the least specific to the most, then by name.
func (t Target) compare(o Target) int {
	return cmp.Or(cmp.Compare(t.level(), o.level()), cmp.Compare(t.Cluster, o.Cluster), t.Name.Compare(o.Name))
}

func (t Target) level() int {
	switch {
	case t.Cluster != "":
		return 0
	case t.Name.Service == "":
		return 1
	}
	return 2
}
