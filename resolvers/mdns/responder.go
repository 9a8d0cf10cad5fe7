package mdns

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// stage is where an announcement stands on a link.
type stage uint8

const (
	stageAway     stage = iota // nothing is said
	stageProbing               // asking whether somebody else has the name (RFC 6762 section 8.1)
	stageStanding              // announced and answered for
	stageConflict              // somebody else has the name
)

const (
	probes     = 3
	probeEvery = 250 * time.Millisecond
	// announcements go out at 0, 1, 3 and 7 s: RFC 6762 section 8.3 wants two at least, and a lost
	// one costs more than a packet.
	announcements = 4
	// deferFor is how long the loser of two simultaneous probes waits (section 8.2).
	deferFor = time.Second
	// conflictFor is how long a name is left to whoever has it before it is tried again.
	conflictFor = 10 * time.Second

	// A record is said to all at most once in a second (section 6).
	repeatAfter = time.Second
	// legacyTTL is for askers that do not speak multicast DNS (section 6.7).
	legacyTTL = 10 * time.Second
	// mostAskers bounds the askers whose answers wait at one time.
	mostAskers = 256
)

// standing is what stands and falls as one on one link: an application in its conventions, or an
// agent's claim with its echoes.
type standing struct {
	key    string   // by which it is told from the others
	offers []*offer // what is probed for and announced
	stage  stage
	count  int       // probes or announcements sent in this stage, or goodbyes
	next   time.Time // of the next thing to send; zero: none
}

// responder answers for what a node announces on one link. It is pure: time comes in as an
// argument, packets go out.
type responder struct {
	standings map[string]*standing
	// names are the offers that have records of a name, folded.
	names  map[string][]*offer
	echoes echoes
	// said is when a record was last said to all.
	said map[ident]time.Time
	// waiting are the answers that wait, by asker.
	waiting map[netip.AddrPort]*reply
	ready   []outgoing
	// contested are the standings that met a conflict since the last look, by key.
	contested []string
}

// outgoing is a packet to be sent; to is invalid where it goes to all.
type outgoing struct {
	to     netip.AddrPort
	packet dns.Msg
}

// reply is what one asker is to be told.
type reply struct {
	since time.Time // when it asked
	due   time.Time
	// told are the records, by the offer that they belong to.
	told map[*offer][]record
}

func newResponder() *responder {
	return &responder{
		standings: map[string]*standing{}, names: map[string][]*offer{}, echoes: echoes{of: map[string]*offer{}},
		said: map[ident]time.Time{}, waiting: map[netip.AddrPort]*reply{},
	}
}

// stand has something announced, or what is announced under the key replaced.
func (r *responder) stand(now time.Time, key string, offers []*offer) {
	s := r.standings[key]
	if s == nil {
		s = &standing{key: key}
		r.standings[key] = s
	}
	for _, o := range s.offers {
		r.remove(o)
	}
	s.offers = offers
	for _, o := range offers {
		r.add(s, o)
	}
	s.probe(now)
}

// add has an offer looked at where its names are named.
func (r *responder) add(s *standing, o *offer) {
	o.by = s
	for _, name := range o.names() {
		r.names[name] = append(r.names[name], o)
	}
}

// remove undoes add, and drops the answers that wait and speak of the offer.
func (r *responder) remove(o *offer) {
	for _, name := range o.names() {
		if list := slices.DeleteFunc(r.names[name], func(other *offer) bool { return other == o }); len(list) > 0 {
			r.names[name] = list
		} else {
			delete(r.names, name)
		}
	}
	r.unsay(o)
	for _, rec := range o.all() {
		if rec.name == o.name || o.echo {
			delete(r.said, recordID(rec))
		}
	}
}

// unsay drops the answers that wait and speak of an offer.
func (r *responder) unsay(o *offer) {
	for _, w := range r.waiting {
		delete(w.told, o)
	}
}

func (s *standing) probe(now time.Time) {
	s.stage, s.count = stageProbing, 0
	s.next = now.Add(rand.N(probeEvery))
}

// leave takes back what stands under the key, with its echoes.
func (r *responder) leave(now time.Time, key string) {
	s := r.standings[key]
	if s == nil {
		return
	}
	if s == r.echoes.claim {
		r.dropAll(now)
	}
	for _, o := range s.offers {
		r.unsay(o)
	}
	if s.stage == stageStanding {
		s.next, s.count = now, 0
	} else {
		s.next = time.Time{}
	}
	s.stage = stageAway
}

// restart is for a link that was away: its listeners may be others now.
func (r *responder) restart(now time.Time) {
	clear(r.said)
	clear(r.waiting)
	for _, s := range r.standings {
		if s.stage != stageAway {
			s.probe(now)
		}
	}
	r.repeatEchoes(now)
}

// hear takes a packet in. src is its sender, and on the link.
func (r *responder) hear(now time.Time, src netip.AddrPort, m message) {
	if m.response {
		r.compare(now, m.records)
		return
	}
	for _, rec := range m.proposed {
		for _, o := range r.names[fold(rec.name)] {
			if s := o.by; s.stage == stageProbing && !o.echo && o.loses(rec) {
				s.count, s.next = 0, now.Add(deferFor)
			}
		}
	}
	r.answer(now, src, m)
}

// compare looks for records that are against ours.
func (r *responder) compare(now time.Time, records []record) {
	var judged []*standing // a packet has one word against each
	for _, rec := range records {
		for _, o := range r.names[fold(rec.name)] {
			s := o.by
			if slices.Contains(judged, s) {
				continue
			}
			switch {
			case s.stage == stageStanding && o.contests(rec):
				s.probe(now) // RFC 6762 section 9: let it be seen who answers
				judged = append(judged, s)
			case s.stage == stageProbing && o.contests(rec) && !o.echo: // of an echo, the claim tells
				s.stage, s.next = stageConflict, now.Add(conflictFor+rand.N(time.Second))
				r.contested = append(r.contested, s.key)
				judged = append(judged, s)
			case s.stage == stageStanding && o.takesBack(rec):
				// Somebody said goodbye for what is ours, as a predecessor of the same name does.
				if o.echo {
					r.announceEcho(now, o)
					continue
				}
				s.count, s.next = announcements-1, now
				clear(r.said)
			}
		}
	}
}

// answer notes what an asker is to be told, and when.
func (r *responder) answer(now time.Time, src netip.AddrPort, m message) {
	legacy := src.Port() != port
	told, unicast := map[*offer][]record{}, map[*offer][]record{}
	shared := false
	for _, q := range m.questions {
		for _, o := range r.names[fold(q.name)] {
			if o.by.stage != stageStanding {
				continue
			}
			for _, rec := range o.answers(q.question) {
				if len(m.proposed) > 0 {
					delete(r.said, recordID(rec)) // a probe is answered at once (section 6)
				}
				switch {
				case knows(m.records, rec):
				case legacy, q.unicast && now.Sub(r.said[recordID(rec)]) < rec.ttl/4:
					unicast[o] = append(unicast[o], rec)
				default:
					told[o] = append(told[o], rec)
					shared = shared || !rec.flush
				}
			}
		}
	}
	if len(unicast) > 0 {
		r.tellOne(now, src, m, unicast, legacy)
	}
	if w := r.waiting[src]; w != nil { // more known answers of the same asker
		for o, list := range w.told {
			w.told[o] = slices.DeleteFunc(list, func(rec record) bool { return knows(m.records, rec) })
		}
	}
	if len(told) == 0 || r.waiting[src] == nil && len(r.waiting) >= mostAskers {
		return
	}
	due := now
	switch {
	case m.truncated:
		due = now.Add(400*time.Millisecond + rand.N(100*time.Millisecond))
	case shared: // others may answer as well
		due = now.Add(20*time.Millisecond + rand.N(100*time.Millisecond))
	}
	w := r.waiting[src]
	if w == nil {
		w = &reply{since: now, due: due, told: map[*offer][]record{}}
		r.waiting[src] = w
	}
	w.due = sooner(w.due, due)
	for o, list := range told {
		for _, rec := range list {
			if !slices.ContainsFunc(w.told[o], func(t record) bool { return recordID(t) == recordID(rec) }) {
				w.told[o] = append(w.told[o], rec)
			}
		}
	}
}

func recordID(r record) ident { return ident{set{fold(r.name), r.kind}, r.data()} }

// knows says whether an asker knows a record, and will for half of its time at least.
func knows(known []record, rec record) bool {
	return slices.ContainsFunc(known, func(k record) bool {
		return k.kind == rec.kind && k.ttl >= rec.ttl/2 && strings.EqualFold(k.name, rec.name) && k.data() == rec.data()
	})
}

// tellOne answers one asker at once.
func (r *responder) tellOne(now time.Time, to netip.AddrPort, m message, told map[*offer][]record, legacy bool) {
	for o := range told {
		o.spoken = now
	}
	for _, msg := range compose(told, true, func(rec record) dns.RR {
		if legacy {
			return rec.rr(min(rec.ttl, legacyTTL), false)
		}
		return rec.rr(rec.ttl, rec.flush)
	}) {
		if legacy {
			msg.Id = m.id
			for _, q := range m.questions {
				msg.Question = append(msg.Question, dns.Question{Name: q.name, Qtype: q.kind, Qclass: dns.ClassINET})
			}
		}
		r.ready = append(r.ready, outgoing{to: to, packet: msg})
	}
}

// step returns what is due.
func (r *responder) step(now time.Time) []outgoing {
	for src, w := range r.waiting {
		if !w.due.After(now) && r.reply(now, w) {
			delete(r.waiting, src)
		}
	}
	for _, s := range r.standings {
		if !s.next.IsZero() && !s.next.After(now) {
			r.advance(now, s)
		}
	}
	r.stepEchoes(now)
	out := r.ready
	r.ready = nil
	return out
}

// reply tells an asker what is due, and says whether that was all. What was said to all since it
// asked it has heard. What was said within the second before waits until that is over (RFC 6762
// section 6): a sidecar that has just begun to listen has not heard it, asks only once, and waits
// for a second.
func (r *responder) reply(now time.Time, w *reply) (all bool) {
	say, later := map[*offer][]record{}, map[*offer][]record{}
	w.due = time.Time{}
	for o, list := range w.told {
		for _, rec := range list {
			switch at, ok := r.said[recordID(rec)]; {
			case !ok || now.Sub(at) >= repeatAfter:
				say[o] = append(say[o], rec)
			case at.Before(w.since):
				later[o] = append(later[o], rec)
				w.due = sooner(w.due, at.Add(repeatAfter))
			}
		}
	}
	r.sayAll(now, say)
	w.told = later
	return len(later) == 0
}

// advance does the next thing for what stands.
func (r *responder) advance(now time.Time, s *standing) {
	switch {
	case s.stage == stageConflict:
		s.probe(now)
	case s.stage == stageProbing && s.count < probes:
		r.ready = append(r.ready, outgoing{packet: s.probePacket()})
		s.count++
		s.next = now.Add(probeEvery)
	case s.stage == stageProbing:
		s.stage, s.count = stageStanding, 0
		r.announce(now, s)
	case s.stage == stageStanding:
		r.announce(now, s)
	default: // away: a goodbye, and once more in case it was lost
		r.bye(s.offers)
		s.count, s.next = s.count+1, now.Add(probeEvery)
		if s.count == 2 {
			s.next = time.Time{}
		}
	}
}

func (r *responder) announce(now time.Time, s *standing) {
	told := map[*offer][]record{}
	for _, o := range s.offers {
		told[o] = o.all()
	}
	r.sayAll(now, told)
	s.count++
	s.next = now.Add(time.Second << (s.count - 1))
	if s.count == announcements {
		s.next = time.Time{}
	}
}

// sayAll says records to all, but for those that were said just now.
func (r *responder) sayAll(now time.Time, told map[*offer][]record) {
	for o, list := range told {
		told[o] = slices.DeleteFunc(slices.Clone(list), func(rec record) bool {
			at, ok := r.said[recordID(rec)]
			return ok && now.Sub(at) < repeatAfter
		})
		for _, rec := range told[o] {
			r.said[recordID(rec)] = now
		}
		if len(told[o]) > 0 {
			o.spoken = now
		}
	}
	for _, msg := range compose(told, true, func(rec record) dns.RR { return rec.rr(rec.ttl, rec.flush) }) {
		r.ready = append(r.ready, outgoing{packet: msg})
	}
}

// compose spreads answers over packets, what belongs to one offer in one packet; with whole, also
// what the answers lead to. What several offers have in common stands in a packet once.
func compose(told map[*offer][]record, whole bool, rr func(record) dns.RR) (out []dns.Msg) {
	size := packetBudget
	var there map[ident]struct{} // what the last packet has beside its answers
	offers := slices.SortedFunc(maps.Keys(told), func(a, b *offer) int { return strings.Compare(a.name, b.name) })
	for _, o := range offers {
		if len(told[o]) == 0 {
			continue
		}
		var extra []record
		if whole {
			extra = o.additional(told[o])
		}
		need := 0
		for _, rec := range slices.Concat(told[o], extra) {
			need += rec.size()
		}
		if size+need > packetBudget {
			out = append(out, dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}})
			size, there = 12, map[ident]struct{}{}
		}
		m := &out[len(out)-1]
		for _, rec := range told[o] {
			size += rec.size()
			m.Answer = append(m.Answer, rr(rec))
		}
		for _, rec := range extra {
			if _, twice := there[recordID(rec)]; !twice {
				there[recordID(rec)] = struct{}{}
				size += rec.size()
				m.Extra = append(m.Extra, rr(rec))
			}
		}
	}
	return out
}

// size is an upper bound of the record's bytes in a packet.
func (r record) size() int {
	n := len(r.name) + len(r.target) + 32
	for _, t := range r.texts {
		n += len(t) + 1
	}
	return n
}

// probePacket asks whether anybody has the names, and says what is to stand under them. It asks
// for an answer to all, not to this host alone: another program of this host may hold the port,
// and get what is sent to the host.
func (s *standing) probePacket() (m dns.Msg) {
	for _, o := range s.offers {
		m.Question = append(m.Question, dns.Question{Name: o.name, Qtype: dns.TypeANY, Qclass: dns.ClassINET})
		m.Ns = append(m.Ns, o.srv.rr(o.srv.ttl, false), o.txt.rr(o.txt.ttl, false))
	}
	return m
}

// bye takes back what was announced. What others may also stand on stays: the type in the
// enumeration, and the host.
func (r *responder) bye(offers []*offer) {
	told := map[*offer][]record{}
	for _, o := range offers {
		told[o] = []record{o.pointer, o.srv, o.txt}
	}
	for _, msg := range compose(told, false, func(rec record) dns.RR { return rec.rr(0, rec.flush) }) {
		r.ready = append(r.ready, outgoing{packet: msg})
	}
}

// wake gives the time when there is something to send next.
func (r *responder) wake() (next time.Time) {
	for _, s := range r.standings {
		next = sooner(next, s.next)
	}
	for _, w := range r.waiting {
		next = sooner(next, w.due)
	}
	return sooner(next, r.wakeEchoes())
}
