package mdns

import (
	"time"

	"github.com/miekg/dns"
)

const (
	// packetBudget is what a packet of ours is filled up to by an estimate that is never below
	// the truth; with the headers it stays within an Ethernet frame (RFC 6762 section 17).
	packetBudget = 1400
	// together is how much earlier a question may go out to share a packet.
	together = 20 * time.Millisecond
	// ageEvery is how often records are looked at that end or are to be asked for again, so that
	// those share packets, too.
	ageEvery = 100 * time.Millisecond
)

// asking counts questions by what they were for.
type asking struct{ browse, renew, complete int }

// ask returns the packets that are due now.
func (l *link) ask(now time.Time) (packets [][]byte, n asking, err error) {
	var q query
	for _, p := range l.pending {
		q.add(p, nil)
	}
	l.pending = nil
	n.renew = len(q.parts)
	if !l.nextType.IsZero() && !l.nextType.After(now) {
		l.askTypes(now, &q)
	}
	n.browse = len(q.parts) - n.renew
	if !l.nextLack.IsZero() && !l.nextLack.After(now) {
		l.askLacking(now, &q)
	}
	n.complete = len(q.parts) - n.renew - n.browse
	packets, err = q.packets()
	return packets, n, err
}

func (l *link) askTypes(now time.Time, q *query) {
	l.nextType = time.Time{}
	for _, t := range l.types {
		if !t.next.After(now.Add(together)) {
			q.add(question{t.name, dns.TypePTR}, l.known(now, t))
			t.asked++
			t.interval = min(max(2*t.interval, firstInterval), t.ceiling())
			t.next = now.Add(t.interval)
		}
		l.nextType = sooner(l.nextType, t.next)
	}
}

func (t *serviceType) ceiling() time.Duration {
	return min(max(leastCeiling, time.Duration(t.pointers)*ceilingPerAnswer), mostCeiling)
}

// known gives the pointers of a type that need not be repeated: heard since the link was
// listened to anew, and with more than half of their time left (RFC 6762 section 7.1).
func (l *link) known(now time.Time, t *serviceType) []record {
	var list []record
	for _, e := range l.cache.of(t.name, dns.TypePTR) {
		left := e.ends.Sub(now)
		if e.doom == undoomed && !e.heard.Before(l.since) && left > e.ttl/2 {
			r := e.record
			r.ttl = left
			list = append(list, r)
		}
	}
	return list
}

// askLacking asks for what instances lack, and has those built that nobody answered for.
func (l *link) askLacking(now time.Time, q *query) {
	l.nextLack = time.Time{}
	for f := range l.lacking {
		if f.next.After(now) {
			l.nextLack = sooner(l.nextLack, f.next)
			continue
		}
		if f.tries >= mostTries {
			l.dirty[f] = struct{}{}
			continue
		}
		srv := l.cache.best(f.name, dns.TypeSRV)
		if srv == nil || f.kind.app != "" {
			q.add(question{f.name, dns.TypeSRV}, nil)
		}
		if l.cache.best(f.name, dns.TypeTXT) == nil {
			q.add(question{f.name, dns.TypeTXT}, nil)
		}
		if srv != nil && len(l.addresses(f.host)) == 0 {
			q.add(question{srv.target, dns.TypeA}, nil)
			q.add(question{srv.target, dns.TypeAAAA}, nil)
		}
		f.next = now.Add(firstInterval << f.tries)
		f.tries++
		l.nextLack = sooner(l.nextLack, f.next)
	}
}

// wake gives the time when there is something to do next.
func (l *link) wake() time.Time {
	wake := sooner(l.nextType, l.nextLack)
	if due, ok := l.cache.next(); ok {
		if least := l.aged.Add(ageEvery); due.Before(least) {
			due = least
		}
		wake = sooner(wake, due)
	}
	return wake
}

// sooner gives the earlier of two times; the zero one means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// query gathers questions, each once, with the answers that are known.
type query struct {
	parts []part
	seen  map[question]struct{}
}

type part struct {
	question question
	known    []record
}

func (q *query) add(what question, known []record) {
	id := question{fold(what.name), what.kind}
	if _, twice := q.seen[id]; twice {
		return
	}
	if q.seen == nil {
		q.seen = map[question]struct{}{}
	}
	q.seen[id] = struct{}{}
	q.parts = append(q.parts, part{what, known})
}

// packets spreads the questions over as many packets as they need. Known answers that have no
// room beside their question follow in packets of their own, as the truncation bit of the ones
// before them says (RFC 6762 section 7.2).
func (q *query) packets() ([][]byte, error) {
	var out [][]byte
	for rest := q.parts; len(rest) > 0; {
		var m dns.Msg
		var known []record
		size := 12
		for len(rest) > 0 && (size == 12 || size+len(rest[0].question.name)+6 <= packetBudget) {
			p := rest[0]
			rest = rest[1:]
			m.Question = append(m.Question, dns.Question{Name: p.question.name, Qtype: p.question.kind, Qclass: dns.ClassINET})
			size += len(p.question.name) + 6
			known = append(known, p.known...)
		}
		for {
			known = fill(&m, size, known)
			m.Truncated = len(known) > 0
			b, err := pack(&m)
			if err != nil {
				return out, err
			}
			out = append(out, b)
			if len(known) == 0 {
				break
			}
			m, size = dns.Msg{}, 12
		}
	}
	return out, nil
}

// fill puts as many answers into m as there is room for, one at least where it is empty, and
// returns the others.
func fill(m *dns.Msg, size int, known []record) (rest []record) {
	for i, r := range known {
		size += len(r.name) + len(r.target) + 14
		if size > packetBudget && (i > 0 || len(m.Question) > 0) {
			return known[i:]
		}
		m.Answer = append(m.Answer, r.rr(r.ttl, false))
	}
	return nil
}

func pack(m *dns.Msg) ([]byte, error) {
	m.Compress = true
	return m.Pack()
}
