package mdns

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// found is an instance that a pointer names.
type found struct {
	name  string // in full, as spelt
	kind  *serviceType
	label string
	host  string // folded: where its SRV points, and it stands in link.hosts

	tries int // questions for what it lacks
	next  time.Time
	// left says that its owner took one of its records back since it was last complete.
	left bool
	cand *candidate
}

// change is what became of an instance on a link.
type change struct {
	name     string     // of the instance, folded: unique on the link
	cand     *candidate // nil: gone
	explicit bool       // its owner said so
}

// settle builds what is dirty and returns what became of it.
func (l *link) settle(now time.Time) []change {
	for f := range l.dirty {
		l.build(now, f)
	}
	l.dirty = emptied(l.dirty)
	changes := l.changes
	l.changes = nil
	return changes
}

// emptied empties a map. One that was large is not kept: to go through it costs what it once held.
func emptied[K comparable](m map[K]struct{}) map[K]struct{} {
	if len(m) > 100 {
		return map[K]struct{}{}
	}
	clear(m)
	return m
}

// build makes an instance of what is known, or notes what lacks.
func (l *link) build(now time.Time, f *found) {
	srv, txt := l.cache.best(f.name, dns.TypeSRV), l.cache.best(f.name, dns.TypeTXT)
	var addrs []netip.Addr
	if srv != nil {
		l.point(f, srv.target)
		addrs = l.addresses(f.host)
	}
	var cand *candidate
	switch {
	case srv != nil && txt != nil && len(addrs) > 0:
		addr := pickAddress(addrs, l.prefixes)
		cand = convert(f.kind, f.label, srv.record, txt.texts, addr)
		if addr.IsLoopback() && l.isForeign(f.host, addr) {
			cand = newCandidate(f.kind, f.kind.app, f.label).refuse(f.kind, f.label,
				"another host says that it is at %s, which is every host's own", addr)
		}
		f.left, f.tries = false, 0
		delete(l.lacking, f)
	case f.tries >= mostTries && srv == nil:
		l.abandon(f)
		return
	case f.tries >= mostTries:
		cand = incomplete(f.kind, f.label, txt != nil)
		delete(l.lacking, f)
	default:
		if _, asked := l.lacking[f]; !asked {
			f.next = l.soon(now)
			l.nextLack = sooner(l.nextLack, f.next)
			l.lacking[f] = struct{}{}
		}
	}
	if cand.equal(f.cand) {
		return
	}
	explicit := cand == nil && f.left
	f.cand = cand
	l.changes = append(l.changes, change{name: fold(f.name), cand: cand, explicit: explicit})
}

// addresses gives those of a host, without those that its owner displaced or took back where
// others stand.
func (l *link) addresses(host string) []netip.Addr {
	var standing, doomed []netip.Addr
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, e := range l.cache.of(host, kind) {
			if e.standing() {
				standing = append(standing, e.addr)
			} else {
				doomed = append(doomed, e.addr)
			}
		}
	}
	if len(standing) > 0 {
		return standing
	}
	return doomed
}

// isForeign says whether another host said that an address is one of a host name.
func (l *link) isForeign(host string, addr netip.Addr) bool {
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, e := range l.cache.of(host, kind) {
			if e.addr == addr {
				return e.foreign
			}
		}
	}
	return false
}

// point notes where an instance's SRV points.
func (l *link) point(f *found, target string) {
	host := fold(target)
	if f.host == host {
		return
	}
	l.unpoint(f)
	f.host = host
	if l.hosts[host] == nil {
		l.hosts[host] = map[*found]struct{}{}
	}
	l.hosts[host][f] = struct{}{}
}

func (l *link) unpoint(f *found) {
	if f.host == "" {
		return
	}
	delete(l.hosts[f.host], f)
	if len(l.hosts[f.host]) == 0 {
		delete(l.hosts, f.host)
	}
	f.host = ""
}

// lose forgets an instance whose pointer ended.
func (l *link) lose(f *found, explicit bool) {
	id := fold(f.name)
	delete(l.found, id)
	delete(l.dirty, f)
	delete(l.lacking, f)
	l.unpoint(f)
	f.kind.pointers--
	l.unfollow(f.kind)
	if f.cand != nil {
		l.changes = append(l.changes, change{name: id, explicit: explicit})
	}
}

// abandon forgets an instance that nobody answers for, though its pointer has time left
// (RFC 6762 section 10.4): the host that announced it is dead.
func (l *link) abandon(f *found) {
	if e := l.cache.entries[ident{set{fold(f.kind.name), dns.TypePTR}, fold(f.name)}]; e != nil {
		l.cache.drop(e)
	}
	l.lose(f, f.left)
}

// isEcho says that an announcement was made by Farcall for an application that lives elsewhere. A
// daprd's label, <host>:<pid>, is none, whatever its host is called.
func isEcho(label string) bool {
	if !strings.HasPrefix(strings.ToLower(label), echoPrefix) {
		return false
	}
	at := strings.LastIndexByte(label, ':')
	pid := label[at+1:]
	return at < 0 || pid == "" || strings.Trim(pid, "0123456789") != ""
}
