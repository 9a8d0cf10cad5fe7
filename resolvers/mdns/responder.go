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

// stage is where the announcement of an application stands on a link.
type stage uint8

const (
	stageAway     stage = iota // it does not listen: nothing is said
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

// standing is one application on one link.
type standing struct {
	app    int // index into the Registrar's list
	offers []offer
	stage  stage
	count  int       // probes or announcements sent in this stage, or goodbyes
	next   time.Time // of the next thing to send; zero: none
}

// responder answers for a node's applications on one link. It is pure: time comes in as an
// argument, packets go out.
type responder struct {
	apps []*standing
	// said is when a record was last said to all.
	said map[ident]time.Time
	// waiting are the answers that wait, by asker.
	waiting map[netip.AddrPort]*reply
	ready   []outgoing
	// contested are the applications that met a conflict since the last look.
	contested []int
}

// outgoing is a packet to be sent; to is invalid where it goes to all.
type outgoing struct {
	to     netip.AddrPort
	packet dns.Msg
}

// reply is what one asker is to be told.
type reply struct {
	due time.Time
	// told are the records, by the offer that they belong to.
	told map[*offer][]record
}

func newResponder(n int) *responder {
	r := &responder{said: map[ident]time.Time{}, waiting: map[netip.AddrPort]*reply{}}
	for i := range n {
		r.apps = append(r.apps, &standing{app: i})
	}
	return r
}

// stand has an application announced, or what is announced replaced.
func (r *responder) stand(now time.Time, app int, offers []offer) {
	s := r.apps[app]
	r.unsay(s)
	s.offers = offers
	s.probe(now)
}

// unsay drops the answers that wait and speak of an application.
func (r *responder) unsay(s *standing) {
	for _, w := range r.waiting {
		for i := range s.offers {
			delete(w.told, &s.offers[i])
		}
	}
}

func (s *standing) probe(now time.Time) {
	s.stage, s.count = stageProbing, 0
	s.next = now.Add(rand.N(probeEvery))
}

// leave takes an application back.
func (r *responder) leave(now time.Time, app int) {
	s := r.apps[app]
	r.unsay(s)
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
	for _, s := range r.apps {
		if s.stage != stageAway {
			s.probe(now)
		}
	}
}

// hear takes a packet in. src is its sender, and on the link.
func (r *responder) hear(now time.Time, src netip.AddrPort, m message) {
	if m.response {
		for _, s := range r.apps {
			s.hear(now, r, m.records)
		}
		return
	}
	for _, s := range r.apps {
		if s.stage == stageProbing && s.loses(m.proposed) {
			s.stage, s.count, s.next = stageProbing, 0, now.Add(deferFor)
		}
	}
	r.answer(now, src, m)
}

// hear looks for records that are against ours.
func (s *standing) hear(now time.Time, r *responder, records []record) {
	if s.stage != stageProbing && s.stage != stageStanding {
		return
	}
	for i := range s.offers {
		o := &s.offers[i]
		for _, rec := range records {
			switch {
			case o.contests(rec) && s.stage == stageStanding:
				s.probe(now) // RFC 6762 section 9: let it be seen who answers
				return
			case o.contests(rec):
				s.stage, s.next = stageConflict, now.Add(conflictFor+rand.N(time.Second))
				r.contested = append(r.contested, s.app)
				return
			case s.stage == stageStanding && o.takesBack(rec):
				// Somebody said goodbye for what is ours, as a predecessor of the same name does.
				s.count, s.next = announcements-1, now
				clear(r.said)
			}
		}
	}
}

// loses says whether somebody who probes for the same name at the same time goes first: the one
// with the later data does (RFC 6762 section 8.2).
func (s *standing) loses(proposed []record) bool {
	for i := range s.offers {
		o := &s.offers[i]
		for _, rec := range proposed {
			if rec.kind == dns.TypeSRV && strings.EqualFold(rec.name, o.name) && rec.data() > o.srv.data() {
				return true
			}
		}
	}
	return false
}

// answer notes what an asker is to be told, and when.
func (r *responder) answer(now time.Time, src netip.AddrPort, m message) {
	legacy := src.Port() != port
	told, unicast := map[*offer][]record{}, map[*offer][]record{}
	shared := false
	for _, s := range r.apps {
		if s.stage != stageStanding {
			continue
		}
		for i := range s.offers {
			o := &s.offers[i]
			for _, q := range m.questions {
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
	}
	if len(unicast) > 0 {
		r.tellOne(src, m, unicast, legacy)
	}
	if w := r.waiting[src]; w != nil { // more known answers of the same asker
		for o, list := range w.told {
			w.told[o] = slices.DeleteFunc(list, func(rec record) bool { return knows(m.records, rec) })
		}
	}
	if len(told) == 0 || len(r.waiting) >= mostAskers {
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
		w = &reply{due: due, told: map[*offer][]record{}}
		r.waiting[src] = w
	}
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
func (r *responder) tellOne(to netip.AddrPort, m message, told map[*offer][]record, legacy bool) {
	for _, msg := range compose(told, func(rec record) dns.RR {
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
		if !w.due.After(now) {
			r.sayAll(now, w.told)
			delete(r.waiting, src)
		}
	}
	for _, s := range r.apps {
		if !s.next.IsZero() && !s.next.After(now) {
			r.advance(now, s)
		}
	}
	out := r.ready
	r.ready = nil
	return out
}

// advance does the next thing for an application.
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
		r.bye(s)
		s.count, s.next = s.count+1, now.Add(probeEvery)
		if s.count == 2 {
			s.next = time.Time{}
		}
	}
}

func (r *responder) announce(now time.Time, s *standing) {
	told := map[*offer][]record{}
	for i := range s.offers {
		told[&s.offers[i]] = s.offers[i].all()
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
	}
	for _, msg := range compose(told, func(rec record) dns.RR { return rec.rr(rec.ttl, rec.flush) }) {
		r.ready = append(r.ready, outgoing{packet: msg})
	}
}

// compose spreads answers over packets, what belongs to one offer in one packet.
func compose(told map[*offer][]record, rr func(record) dns.RR) (out []dns.Msg) {
	size := packetBudget
	offers := slices.SortedFunc(maps.Keys(told), func(a, b *offer) int { return strings.Compare(a.name, b.name) })
	for _, o := range offers {
		if len(told[o]) == 0 {
			continue
		}
		extra := o.additional(told[o])
		need := 0
		for _, rec := range slices.Concat(told[o], extra) {
			need += rec.size()
		}
		if size+need > packetBudget {
			out = append(out, dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}})
			size = 12
		}
		size += need
		m := &out[len(out)-1]
		for _, rec := range told[o] {
			m.Answer = append(m.Answer, rr(rec))
		}
		for _, rec := range extra {
			m.Extra = append(m.Extra, rr(rec))
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
	for i := range s.offers {
		o := &s.offers[i]
		m.Question = append(m.Question, dns.Question{Name: o.name, Qtype: dns.TypeANY, Qclass: dns.ClassINET})
		m.Ns = append(m.Ns, o.srv.rr(o.srv.ttl, false), o.txt.rr(o.txt.ttl, false))
	}
	return m
}

// bye takes back what an application announced. What others may also stand on stays: the type
// in the enumeration, and the host.
func (r *responder) bye(s *standing) {
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}}
	for i := range s.offers {
		o := &s.offers[i]
		for _, rec := range []record{o.pointer, o.srv, o.txt} {
			m.Answer = append(m.Answer, rec.rr(0, rec.flush))
		}
	}
	r.ready = append(r.ready, outgoing{packet: m})
}

// wake gives the time when there is something to send next.
func (r *responder) wake() (next time.Time) {
	for _, s := range r.apps {
		next = sooner(next, s.next)
	}
	for _, w := range r.waiting {
		next = sooner(next, w.due)
	}
	return next
}
