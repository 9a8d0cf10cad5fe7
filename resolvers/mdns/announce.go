package mdns

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// mostLabel is the length of a DNS label, in bytes.
const mostLabel = 63

// offer is one application in one convention, as the records that announce it.
type offer struct {
	name    string // of the instance
	pointer record // from the type to the instance
	kind    record // from the enumeration to the type; an echo's is not announced
	srv     record
	txt     record
	addrs   []record

	by *standing // what it stands and falls with
	// echo says that it is for an application that lives elsewhere.
	echo bool
	// spoken is when anything of it was last said; zero: never.
	spoken time.Time
}

// labelFor makes an instance label of an id. A label that begins as an echo's does gets
// something before it.
func labelFor(id string) string {
	if strings.HasPrefix(strings.ToLower(id), echoPrefix) {
		id = "app-" + id
	}
	return shorten(id)
}

// echoLabel is the instance label of what a node announces for applications that live elsewhere.
func echoLabel(node string) string {
	label := shorten(echoPrefix + node)
	if !isEcho(label) {
		label = shorten(label + "-") // a node whose name ends as a daprd's label does
	}
	return label
}

// shorten cuts a label that is too long, and tells it from others by a hash.
func shorten(id string) string {
	if len(id) <= mostLabel {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	tail := "-" + hex.EncodeToString(sum[:4])
	cut := mostLabel - len(tail)
	for cut > 0 && !utf8.RuneStart(id[cut]) {
		cut--
	}
	return id[:cut] + tail
}

// hostFor names the host of some addresses. Whoever announces the same addresses uses the same
// name, and so nobody can be in conflict about it.
func hostFor(addrs []netip.Addr) string {
	if len(addrs) == 1 && addrs[0].Is4() {
		return "farcall-host-" + strings.ReplaceAll(addrs[0].String(), ".", "-") + "." + domain
	}
	h := sha256.New()
	for _, a := range addrs {
		h.Write(a.AsSlice()) // a hash takes everything
	}
	return "farcall-host-" + hex.EncodeToString(h.Sum(nil)[:8]) + "." + domain
}

// offers gives the announcements of an application: one in Farcall's own convention, and one in
// Dapr's where a sidecar can make use of it. Dapr's knows no namespaces, so only applications of
// the default one are announced in it: two namespaces' applications of the same id would be one
// to a sidecar, and it would call either.
func offers(r resolvers.Registration, addrs []netip.Addr, ttl time.Duration) []*offer {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	label, host := labelFor(r.ID), hostFor(addrs)
	texts := []string{keyVersion + "=1", keyApp + "=" + r.Name.Service}
	ns := cmp.Or(r.Name.Namespace, catalog.DefaultNamespace)
	if ns != catalog.DefaultNamespace {
		texts = append(texts, keyNS+"="+ns)
	}
	if r.Node != "" {
		texts = append(texts, keyNode+"="+r.Node)
	}
	if r.RelayPort > 0 {
		texts = append(texts, keyRelay+"="+strconv.Itoa(r.RelayPort))
	}
	if label != r.ID {
		texts = append(texts, keyID+"="+r.ID)
	}
	list := []*offer{newOffer(label, ownType, host, r.Port, texts, addrs, ttl)}
	if ns == catalog.DefaultNamespace && r.RelayPort > 0 && bareable(r.Name.Service) {
		list = append(list, newOffer(label, escapeLabel(r.Name.Service)+"."+domain, host, r.RelayPort, []string{r.Name.Service}, addrs, ttl))
	}
	return list
}

// bareable says whether an app-id can be a service type of Dapr's convention: a single label
// that does not look like DNS-SD's own types.
func bareable(app string) bool {
	return app != "" && len(app) <= mostLabel && !strings.HasPrefix(app, "_") && !strings.Contains(app, ".")
}

// newEcho announces an application that lives elsewhere as a daprd would. All its records have the
// time of those that name a host: those who heard of it forget it soon after this node died.
func newEcho(label, app string, addr netip.Addr, port int) *offer {
	addrs := []netip.Addr{addr}
	o := newOffer(label, escapeLabel(app)+"."+domain, hostFor(addrs), port, []string{app}, addrs, DefaultTTL)
	o.pointer.ttl, o.txt.ttl, o.echo = DefaultTTL, DefaultTTL, true
	return o
}

func newOffer(label, kind, host string, port int, texts []string, addrs []netip.Addr, ttl time.Duration) *offer {
	name := escapeLabel(label) + "." + kind
	o := &offer{
		name:    name,
		pointer: record{name: kind, kind: dns.TypePTR, target: name, ttl: mostOtherTTL},
		kind:    record{name: enumeration, kind: dns.TypePTR, target: kind, ttl: mostOtherTTL},
		srv:     record{name: name, kind: dns.TypeSRV, target: host, port: uint16(port), ttl: ttl, flush: true},
		txt:     record{name: name, kind: dns.TypeTXT, texts: texts, ttl: mostOtherTTL, flush: true},
	}
	for _, a := range addrs {
		r := record{name: host, kind: dns.TypeA, addr: a, ttl: ttl, flush: true}
		if a.Is6() {
			r.kind = dns.TypeAAAA
		}
		o.addrs = append(o.addrs, r)
	}
	return o
}

// all gives every record, the instance's own first. An echo is not in the enumeration, which is for
// those who look for what there is on the link; and its host is announced by what it stands with.
func (o *offer) all() []record {
	list := []record{o.srv, o.txt, o.pointer}
	if o.echo {
		return list
	}
	return append(append(list, o.kind), o.addrs...)
}

// names gives those of its records, each once.
func (o *offer) names() []string {
	var list []string
	for _, r := range o.all() {
		list = append(list, fold(r.name))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// answers gives the records that answer a question.
func (o *offer) answers(q question) (list []record) {
	for _, r := range o.all() {
		if (q.kind == r.kind || q.kind == dns.TypeANY) && strings.EqualFold(q.name, r.name) {
			list = append(list, r)
		}
	}
	return list
}

// additional gives what somebody who is told these records will ask for next (RFC 6763 section
// 12). daprd's library takes an instance only if everything is in one packet.
func (o *offer) additional(told []record) (list []record) {
	var instance, addresses bool
	for _, r := range told {
		switch r.kind {
		case dns.TypePTR:
			if r.target == o.name {
				instance, addresses = true, true
			}
		case dns.TypeSRV:
			addresses = true
		}
	}
	add := func(r record) {
		if !slices.ContainsFunc(told, func(t record) bool { return t.kind == r.kind && t.name == r.name && t.data() == r.data() }) {
			list = append(list, r)
		}
	}
	if instance {
		add(o.srv)
		add(o.txt)
	}
	if addresses {
		for _, r := range o.addrs {
			add(r)
		}
	}
	return list
}

// contests says whether a record that somebody else said is against the offer: the same name
// and type, and other data.
func (o *offer) contests(r record) bool {
	if r.ttl == 0 || !strings.EqualFold(r.name, o.name) {
		return false
	}
	return r.kind == dns.TypeSRV && r.data() != o.srv.data() || r.kind == dns.TypeTXT && r.data() != o.txt.data()
}

// loses says whether somebody who probes for the same name at the same time goes first: the one
// with the later data does (RFC 6762 section 8.2).
func (o *offer) loses(proposed record) bool {
	return proposed.kind == dns.TypeSRV && strings.EqualFold(proposed.name, o.name) && proposed.data() > o.srv.data()
}

// takesBack says whether somebody took a record back that the offer stands on.
func (o *offer) takesBack(r record) bool {
	if r.ttl > 0 {
		return false
	}
	for _, own := range o.all() {
		if own.kind == r.kind && strings.EqualFold(own.name, r.name) && own.data() == r.data() {
			return true
		}
	}
	return false
}
