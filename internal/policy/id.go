package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
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
		return "service/" + escape(t.Name.Namespace) + "/" + escape(t.Name.Service) + "/" + last
	}
	return "namespace/" + escape(t.Name.Namespace) + "/" + last
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
		t.Name.Namespace, ok = unescape(seg[1])
	case len(seg) == 4 && seg[0] == "service":
		var also bool
		t.Name.Namespace, ok = unescape(seg[1])
		t.Name.Service, also = unescape(seg[2])
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

const hexDigits = "0123456789ABCDEF"

// escape writes one segment of an ID as all keys of the store are written: %XX for each byte that
// is not visible ASCII, and for '/' and '%'.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '/' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&0xf])
		}
	}
	return b.String()
}

// unescape is the inverse of escape.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), true
}
