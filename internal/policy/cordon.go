package policy

import (
	"fmt"
	"strings"
	"time"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/strategy"
)

// Cordon takes a cluster, or one service of it, out of everybody's choice. It is not changed once
// it is made.
type Cordon struct {
	Cluster string
	// Name is the service; zero: the whole cluster.
	Name catalog.Name
	// Reason, Author and Since are for people.
	Reason, Author string
	Since          time.Time
	// Expires is when it ends by itself; zero: never.
	Expires time.Time
	// Revision of all policies and cordons that wrote it; 0 where it was not stored.
	Revision uint64
}

// CordonFromProto reads a cordon strictly. A service without a namespace is in the default one.
// Its error is an Errors with every mistake.
func CordonFromProto(m *policyv1.Cordon) (*Cordon, error) {
	r := &reader{}
	r.newer("", m.ProtoReflect())
	c := &Cordon{
		Cluster:  m.GetCluster(),
		Name:     catalog.Name{Namespace: m.GetNamespace(), Service: m.GetService()},
		Reason:   r.text("reason", m.GetReason()),
		Author:   r.text("author", m.GetAuthor()),
		Since:    r.timestamp("since", m.GetSince()),
		Expires:  r.timestamp("expires", m.GetExpires()),
		Revision: m.GetRevision(),
	}
	if err := catalog.CheckClusterName(c.Cluster); err != nil {
		r.addf("cluster", "%v", err)
	}
	switch {
	case c.Name.Service != "":
		if c.Name.Namespace == "" {
			c.Name.Namespace = catalog.DefaultNamespace
		}
		if err := c.Name.Check(); err != nil {
			r.addf("service", "%v", err)
		}
	case c.Name.Namespace != "":
		r.addf("namespace", "stands without a service: a cordon is of a whole cluster or of one service of it")
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// ReadCordon is CordonFromProto for those who did not write the cordon but must follow it: its
// error is an ErrNewer, which holds what CordonFromProto says.
func ReadCordon(m *policyv1.Cordon) (*Cordon, error) {
	c, err := CordonFromProto(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNewer, err)
	}
	return c, nil
}

// Proto gives the cordon as it is stored and sent. CordonFromProto gives the same cordon back.
func (c *Cordon) Proto() *policyv1.Cordon {
	return &policyv1.Cordon{
		Cluster:   c.Cluster,
		Namespace: c.Name.Namespace,
		Service:   c.Name.Service,
		Reason:    c.Reason,
		Author:    c.Author,
		Since:     timestamp(c.Since),
		Expires:   timestamp(c.Expires),
		Revision:  c.Revision,
	}
}

// ID tells the cordons of one cluster apart: "*" for the whole of it, "default/cart" for a service.
// It is the text of a key: ParseCordonID takes it back.
func (c *Cordon) ID() string { return FormatCordonID(c.Name) }

// FormatCordonID gives the ID of the cordon of a service, or, for the zero Name, of the whole
// cluster.
func FormatCordonID(n catalog.Name) string {
	if n == (catalog.Name{}) {
		return everyone
	}
	return keys.Escape(n.Namespace) + "/" + keys.Escape(n.Service)
}

// ParseCordonID is the inverse of FormatCordonID: what it takes, FormatCordonID gives back byte by
// byte.
func ParseCordonID(id string) (catalog.Name, error) {
	if id == everyone {
		return catalog.Name{}, nil
	}
	ns, svc, ok := strings.Cut(id, "/")
	if ok {
		var n catalog.Name
		var also bool
		n.Namespace, ok = keys.Unescape(ns)
		n.Service, also = keys.Unescape(svc)
		if ok && also && n.Check() == nil && FormatCordonID(n) == id {
			return n, nil
		}
	}
	return catalog.Name{}, fmt.Errorf("%.200q is not the ID of a cordon", id)
}

// String gives "cluster west" or "service default/cart in west".
func (c *Cordon) String() string {
	if c.Name == (catalog.Name{}) {
		return "cluster " + c.Cluster
	}
	return "service " + c.Name.String() + " in " + c.Cluster
}

// Text says for people who set it, when and why: "by ann since 2026-03-01T10:00:00Z: disks".
func (c *Cordon) Text() string {
	var words []string
	if c.Author != "" {
		words = append(words, "by "+c.Author)
	}
	if !c.Since.IsZero() {
		words = append(words, "since "+c.Since.UTC().Format(time.RFC3339))
	}
	if !c.Expires.IsZero() {
		words = append(words, "until "+c.Expires.UTC().Format(time.RFC3339))
	}
	s := strings.Join(words, " ")
	switch {
	case c.Reason == "":
	case s == "":
		s = c.Reason
	default:
		s += ": " + c.Reason
	}
	return s
}

// Warnings says what is accepted and yet may be a mistake: a cluster that is not among those that
// somebody has heard of.
func (c *Cordon) Warnings(clusters []string) []string {
	return stranger(nil, "cluster", c.Cluster, clusters)
}

func (c *Cordon) strategy() strategy.Cordon {
	return strategy.Cordon{Cluster: c.Cluster, Name: c.Name, Until: c.Expires, Text: c.Text()}
}
