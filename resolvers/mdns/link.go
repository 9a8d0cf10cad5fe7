package mdns

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	// mostRecords and mostTypes bound what one link can make a process hold. A service of 10 000
	// instances on hosts of their own has 50 000 records. When full, what is known stays and what
	// is new is dropped and counted.
	mostRecords = 100_000
	mostTypes   = 2_000

	// listenFor is how long it takes to hear everybody after two rounds of questions, at 0 and at
	// 1 s: answers come within half a second. settleBy ends the listening where somebody goes on
	// naming new types, or instances of which nobody says more.
	listenFor = 3 * time.Second
	settleBy  = 10 * time.Second

	firstInterval = time.Second
	// The interval of a question doubles up to leastCeiling, or with many instances up to
	// ceilingPerAnswer for each, as all of them are repeated in the question as known answers; at
	// most mostCeiling. RFC 6762 section 5.2 lets it grow to an hour at once: then an instance
	// whose two announcements were lost would be missed for that long.
	leastCeiling     = time.Minute
	ceilingPerAnswer = 60 * time.Millisecond
	mostCeiling      = time.Hour

	// mostTries is how often somebody is asked for what an announcement lacks.
	mostTries = 4

	// patience is how long a link that is back may be silent before its list is believed to be
	// gone: a switch lets nothing through for 30 s while it looks for loops (IEEE 802.1D).
	patience = 40 * time.Second
)

// serviceType is a type whose instances are looked for.
type serviceType struct {
	name   string // as spelt
	app    string // the app-id that it means; empty for ownType
	pinned bool   // followed whether anybody names it or not

	pointers int // how many are in the cache

	asked    int // since the link was listened to anew
	interval time.Duration
	next     time.Time // when it is asked for again
}

// link is what is known of one link and what is to be asked on it. It is pure: time comes in as
// an argument, questions and changes go out.
type link struct {
	name     string
	prefixes []netip.Prefix // of the interface

	cache *cache
	types map[string]*serviceType // by folded name
	found map[string]*found       // by folded name
	hosts map[string]map[*found]struct{}
	// dirty are to be built anew, lacking are incomplete and asked for.
	dirty   map[*found]struct{}
	lacking map[*found]struct{}

	since time.Time // when listening began, last
	// lonely says that the link was away, had records, and nobody was heard on it since.
	lonely  bool
	opening time.Time // when the first questions after that are due
	// nextType and nextLack are not after the first question that is due for a type, and for what
	// an instance lacks.
	nextType, nextLack time.Time

	aged    time.Time // when age was last called
	pending []question
	changes []change

	drops drops
}

// drops counts what was not taken; its reader sets it back.
type drops struct{ full, echo int }

func newLink(name string, now time.Time) *link {
	l := &link{
		name: name, cache: newCache(mostRecords),
		types: map[string]*serviceType{}, found: map[string]*found{}, hosts: map[string]map[*found]struct{}{},
		dirty: map[*found]struct{}{}, lacking: map[*found]struct{}{},
	}
	for _, name := range []string{enumeration, ownType} {
		l.types[name] = &serviceType{name: name, pinned: true}
	}
	l.listen(now)
	return l
}

// listen begins two rounds of questions for everything.
func (l *link) listen(now time.Time) {
	l.since = now
	l.opening = now.Add(20*time.Millisecond + rand.N(100*time.Millisecond))
	l.nextType = l.opening
	for _, t := range l.types {
		t.asked, t.interval, t.next = 0, 0, l.opening
	}
}

// relisten is for a link that was not heard for a while: what is not heard again is gone. But
// where nobody at all is heard, the link may not be through yet.
func (l *link) relisten(now time.Time) {
	l.listen(now)
	l.lonely = len(l.cache.entries) > 0
	l.cache.doubt(now, now.Add(patience))
}

// company says that another host was heard.
func (l *link) company(now time.Time) {
	if !l.lonely {
		return
	}
	l.lonely = false
	began := l.since
	if now.Sub(began) > firstInterval { // the first questions reached nobody
		l.listen(now)
	}
	l.cache.doubt(began, now.Add(listenFor))
}

// soon is when a first question goes out: a little later, against listeners in step (RFC 6762
// section 5.2), and together with the others of a link that is new.
func (l *link) soon(now time.Time) time.Time {
	if now.Before(l.opening) {
		return l.opening
	}
	return now.Add(20*time.Millisecond + rand.N(20*time.Millisecond))
}

// settled says whether everybody on the link has had the time to answer two rounds.
func (l *link) settled(now time.Time) bool {
	if l.lonely = l.lonely && len(l.cache.entries) > 0; l.lonely {
		return false
	}
	age := now.Sub(l.since)
	if age < listenFor || age >= settleBy {
		return age >= settleBy
	}
	for _, t := range l.types {
		// The third question is due two seconds after the second.
		if t.asked < 2 || t.asked == 2 && now.Before(t.next.Add(-firstInterval)) {
			return false
		}
	}
	return len(l.lacking) == 0
}

// hear takes a response in.
func (l *link) hear(now time.Time, m message) {
	for _, r := range m.records {
		if r.kind == dns.TypePTR {
			l.pointer(now, r)
		}
	}
	for _, r := range m.records {
		if r.kind == dns.TypeSRV || r.kind == dns.TypeTXT {
			l.detail(now, r)
		}
	}
	for _, r := range m.records {
		if r.kind != dns.TypeA && r.kind != dns.TypeAAAA {
			continue
		}
		if at := l.hosts[fold(r.name)]; len(at) > 0 {
			if l.put(now, r) {
				l.markAll(at)
			}
		}
	}
}

// put caches a record and says whether anything is new because of it.
func (l *link) put(now time.Time, r record) bool {
	_, changed, full, others := l.cache.put(now, r)
	if full {
		l.drops.full++
	}
	return changed || len(others) > 0
}

// pointer takes a PTR, which names a type or an instance of one.
func (l *link) pointer(now time.Time, r record) {
	name := fold(r.name)
	if name == enumeration {
		if app, bare := appOf(r.target); bare && l.put(now, r) {
			l.follow(now, r.target, app)
		}
		return
	}
	t := l.types[name]
	if t == nil {
		// Whoever announces an instance under a bare name means Dapr's convention, whether or not he
		// answers the enumeration.
		app, bare := appOf(r.name)
		label, ok := labelOf(r.target, r.name)
		if !ok || !bare || r.ttl == 0 {
			return
		}
		if isEcho(label) { // nobody of this cluster is to be looked for there
			l.drops.echo++
			return
		}
		if t = l.follow(now, r.name, app); t == nil {
			return
		}
	}
	label, ok := labelOf(r.target, t.name)
	if ok && isEcho(label) {
		l.drops.echo++
		return
	}
	if !ok || !l.put(now, r) {
		return
	}
	id := fold(r.target)
	if f := l.found[id]; f != nil {
		l.dirty[f] = struct{}{}
		return
	}
	f := &found{name: r.target, kind: t, label: label}
	t.pointers++
	l.found[id] = f
	l.dirty[f] = struct{}{}
}

// follow returns the type of that name, which is looked for from now on. nil: there is no room.
func (l *link) follow(now time.Time, name, app string) *serviceType {
	id := fold(name)
	if t := l.types[id]; t != nil {
		return t
	}
	if len(l.types) >= mostTypes {
		l.drops.full++
		return nil
	}
	t := &serviceType{name: name, app: app, next: l.soon(now)}
	l.types[id] = t
	l.nextType = sooner(l.nextType, t.next)
	return t
}

// unfollow forgets a type that nobody names any more.
func (l *link) unfollow(t *serviceType) {
	if t.pinned || t.pointers > 0 {
		return
	}
	if e := l.cache.entries[ident{set{enumeration, dns.TypePTR}, fold(t.name)}]; e == nil {
		delete(l.types, fold(t.name))
	}
}

// detail takes an SRV or a TXT of an instance.
func (l *link) detail(now time.Time, r record) {
	f := l.found[fold(r.name)]
	if f == nil && !l.followed(r.name) {
		return
	}
	if !l.put(now, r) || f == nil {
		return
	}
	if r.kind == dns.TypeSRV && r.ttl > 0 {
		l.point(f, r.target)
	}
	l.dirty[f] = struct{}{}
}

// followed says whether a name is one of an instance of a type that is looked for, and no echo's. Its
// pointer may come in the next packet.
func (l *link) followed(name string) bool {
	for i, end := dns.NextLabel(name, 0); !end; i, end = dns.NextLabel(name, i) {
		if t := l.types[fold(name[i:])]; t != nil && t.name != enumeration {
			return !isEcho(unescape(name[:i-1]))
		}
	}
	return false
}

func (l *link) markAll(list map[*found]struct{}) {
	for f := range list {
		l.dirty[f] = struct{}{}
	}
}

// age lets records end whose time has come, and notes which are to be asked for again.
func (l *link) age(now time.Time) (removed []doom) {
	l.aged = now
	for {
		e, ended := l.cache.pop(now)
		switch {
		case e == nil:
			return removed
		case ended:
			l.end(now, e)
			removed = append(removed, e.doom)
		default:
			l.renew(e)
		}
	}
}

// end draws the conclusions from the end of a record.
func (l *link) end(now time.Time, e *entry) {
	switch e.kind {
	case dns.TypePTR:
		if e.id.name == enumeration {
			if t := l.types[fold(e.target)]; t != nil {
				l.unfollow(t)
			}
			return
		}
		f := l.found[fold(e.target)]
		if f == nil {
			return
		}
		if e.doom == aged {
			l.suspect(now, f.kind)
		}
		l.lose(f, e.doom == goodbye || f.left)
	case dns.TypeSRV, dns.TypeTXT:
		f := l.found[e.id.name]
		if f == nil {
			return
		}
		f.left = f.left || e.doom == goodbye
		l.dirty[f] = struct{}{}
		if e.doom == aged {
			l.suspect(now, f.kind)
		}
	default:
		at := l.hosts[e.id.name]
		l.markAll(at)
		for f := range at {
			if e.doom == aged {
				l.suspect(now, f.kind)
			}
		}
	}
}

// suspect asks for a type at short intervals again: an instance of it went without a goodbye,
// so others may have gone the same way, behind a broken switch, and come back.
func (l *link) suspect(now time.Time, t *serviceType) {
	if t.interval > firstInterval {
		t.interval = firstInterval
		t.next = now.Add(firstInterval)
		l.nextType = sooner(l.nextType, t.next)
	}
}

// renew asks for a record before it ends. For an address the instances on the host are asked
// for, too: daprd answers for its instance only, and adds the address.
func (l *link) renew(e *entry) {
	l.pending = append(l.pending, question{e.name, e.kind})
	if e.kind != dns.TypeA && e.kind != dns.TypeAAAA {
		return
	}
	for f := range l.hosts[e.id.name] {
		if f.kind.app != "" {
			l.pending = append(l.pending, question{f.name, dns.TypeSRV})
		}
	}
}

// readdress takes the interface's prefixes, which say which of a host's addresses is near.
func (l *link) readdress(prefixes []netip.Prefix) {
	l.prefixes = prefixes
	for _, f := range l.found {
		l.dirty[f] = struct{}{}
	}
}
