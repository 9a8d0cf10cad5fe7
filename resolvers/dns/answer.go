package dns

import (
	"fmt"
	"math"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
)

// question is what a server is asked. The name is canonical.
type question struct {
	name string
	typ  uint16
}

// String gives "name TYPE".
func (q question) String() string { return q.name + " " + miekg.Type(q.typ).String() }

// outcome is what the DNS says of a name. Failures are errors, never an outcome.
type outcome uint8

const (
	unread  outcome = iota
	found           // it has records of the type
	noData          // it exists, or may exist, without any (RFC 2308, NODATA)
	noName          // it does not exist (NXDOMAIN)
	aliased         // the answer ends in an alias whose own records it does not hold
)

// maxAliases is how many CNAMEs are followed for one question.
const maxAliases = 12

// answer is what one message says.
type answer struct {
	outcome outcome
	// next is what to ask on for, where outcome is aliased.
	next    string
	records []miekg.RR
	// ttl is the least of all that the answer rests on.
	ttl time.Duration
	// extra are addresses that the server sent along unasked.
	extra map[question]answer
	// broken says why the chain of aliases leads nowhere; outcome is then noData.
	broken string
}

// parse takes a message apart that answers q with NOERROR or NXDOMAIN. An error says why it tells
// nothing about the name: then another server may know more.
func parse(q question, m *miekg.Msg) (answer, error) {
	var a answer
	name, broken := a.follow(q, m.Answer)
	if broken != "" {
		a.outcome, a.broken, a.records = noData, broken, nil
		return a, nil
	}
	if len(a.records) > 0 {
		if m.Rcode == miekg.RcodeNameError {
			return answer{}, &failure{kind: kindOther, text: "says that the name does not exist and gives its records"}
		}
		a.outcome, a.extra = found, extras(a.records, m.Extra)
		return a, nil
	}
	soa, covered := authority(m.Ns, name)
	switch {
	case m.Rcode == miekg.RcodeNameError:
		// Of a chain, this is said of its end (RFC 6604).
		a.outcome = noName
	case name != q.name && !covered:
		a.outcome, a.next = aliased, name
		return a, nil
	case soa == nil && !m.Authoritative && hasNS(m.Ns):
		return answer{}, &failure{kind: kindReferral,
			text: "refers to other servers instead of answering: it is not recursive, and the zone is not its own: write a recursive server, or one of the zone, in servers"}
	default:
		a.outcome = noData
	}
	negative := time.Duration(0) // without an SOA nothing says how long (RFC 2308, section 5)
	if soa != nil {
		negative = min(ttlOf(soa.Hdr.Ttl), ttlOf(soa.Minttl))
	}
	a.ttl = min(a.ttl, negative)
	return a, nil
}

// follow walks the chain of aliases and collects the records at its end, which it returns.
func (a *answer) follow(q question, section []miekg.RR) (end, broken string) {
	a.ttl = math.MaxInt64
	aliases := map[string]*miekg.CNAME{}
	for _, rr := range section {
		if c, ok := rr.(*miekg.CNAME); ok && c.Hdr.Class == miekg.ClassINET && c.Target != "" {
			if owner := canonical(c.Hdr.Name); aliases[owner] == nil {
				aliases[owner] = c
			}
		}
	}
	var path chain
	for end = q.name; ; {
		for _, rr := range section {
			h := rr.Header()
			if h.Rrtype == q.typ && h.Class == miekg.ClassINET && canonical(h.Name) == end {
				a.records = append(a.records, rr)
				a.ttl = min(a.ttl, ttlOf(h.Ttl))
			}
		}
		alias := aliases[end]
		if alias == nil || len(a.records) > 0 {
			return end, ""
		}
		a.ttl = min(a.ttl, ttlOf(alias.Hdr.Ttl))
		if broken = path.add(end, canonical(alias.Target)); broken != "" {
			return end, broken
		}
		end = canonical(alias.Target)
	}
}

// chain is the aliases that were followed so far.
type chain []string

// add goes on to a name, or says why that is not to be done.
func (c *chain) add(from, to string) string {
	if len(*c) == 0 {
		*c = append(*c, from)
	}
	looped := false
	for _, n := range *c {
		looped = looped || n == to
	}
	*c = append(*c, to)
	switch {
	case looped:
		return "its aliases run in a circle: " + strings.Join(*c, " -> ")
	case len(*c) > maxAliases:
		return fmt.Sprintf("more than %d aliases in a row: %s -> ... -> %s", maxAliases-1, (*c)[0], to)
	}
	return ""
}

// authority gives the SOA that says "there is no such record", and whether it does so for name.
func authority(section []miekg.RR, name string) (soa *miekg.SOA, covers bool) {
	for _, rr := range section {
		if s, ok := rr.(*miekg.SOA); ok {
			return s, miekg.IsSubDomain(canonical(s.Hdr.Name), name)
		}
	}
	return nil, false
}

func hasNS(section []miekg.RR) bool {
	for _, rr := range section {
		if rr.Header().Rrtype == miekg.TypeNS {
			return true
		}
	}
	return false
}

// extras gives the addresses of the targets of SRV records that came along with them. RFC 2181,
// section 9, lets a server leave out a set of records here, but not a part of one.
func extras(records, section []miekg.RR) map[question]answer {
	var out map[question]answer
	wanted := map[string]bool{}
	for _, rr := range records {
		if s, ok := rr.(*miekg.SRV); ok {
			wanted[canonical(s.Target)] = true
		}
	}
	for _, rr := range section {
		h := rr.Header()
		if (h.Rrtype != miekg.TypeA && h.Rrtype != miekg.TypeAAAA) || h.Class != miekg.ClassINET {
			continue
		}
		q := question{canonical(h.Name), h.Rrtype}
		if !wanted[q.name] {
			continue
		}
		if out == nil {
			out = map[question]answer{}
		}
		a, ok := out[q]
		if !ok {
			a = answer{outcome: found, ttl: math.MaxInt64}
		}
		a.records = append(a.records, rr)
		a.ttl = min(a.ttl, ttlOf(h.Ttl))
		out[q] = a
	}
	return out
}

// ttlOf reads a TTL. One with the highest bit set means 0 (RFC 2181, section 8).
func ttlOf(seconds uint32) time.Duration {
	if seconds > math.MaxInt32 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
