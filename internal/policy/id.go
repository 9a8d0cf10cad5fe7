package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// everyone stands for an empty From in an ID, and for a whole cluster in a cordon's. No cluster
// can have that name.
const everyone = "*"

// FormatID gives the ID of the policy with this target and From, in whatever order:
// "service/default/cart/*", "namespace/shop/east,west", "cluster/east/*".
func FormatID(t Target, from []string) string {
	last := everyone
	if len(from) > 0 {
		last = strings.Join(sorted(from), ",")
	}
	switch {
	case t.Cluster != "":
		return "cluster/" + t.Cluster + "/" + last
	case t.Name.Service != "":
		return "service/" + keys.Escape(t.Name.Namespace) + "/" + keys.Escape(t.Name.Service) + "/" + last
	}
	return "namespace/" + keys.Escape(t.Name.Namespace) + "/" + last
}

// ParseID is the inverse of FormatID: what it takes, FormatID gives back byte by byte.
func ParseID(id string) (Target, []string, error) {
	seg := strings.Split(id, "/")
	var t Target
	ok := true
	switch {
	case len(seg) == 3 && seg[0] == "cluster":
		t.Cluster = seg[1]
	case len(seg) == 3 && seg[0] == "namespace":
		t.Name.Namespace, ok = keys.Unescape(seg[1])
	case len(seg) == 4 && seg[0] == "service":
		var also bool
		t.Name.Namespace, ok = keys.Unescape(seg[1])
		t.Name.Service, also = keys.Unescape(seg[2])
		ok = ok && also
	default:
		ok = false
	}
	if !ok || t.Check() != nil {
		return Target{}, nil, notID(id)
	}
	var from []string
	if last := seg[len(seg)-1]; last != everyone {
		from = strings.Split(last, ",")
	}
	for i, c := range from {
		if catalog.CheckClusterName(c) != nil || t.Cluster != "" || i > 0 && from[i-1] >= c {
			return Target{}, nil, notID(id)
		}
	}
	if FormatID(t, from) != id {
		return Target{}, nil, notID(id)
	}
	return t, from, nil
}

func notID(id string) error { return fmt.Errorf("%.200q is not the ID of a policy", id) }

// sorted gives a copy in canonical order.
func sorted(from []string) []string {
	if len(from) == 0 {
		return nil
	}
	return slices.Sorted(slices.Values(from))
}
