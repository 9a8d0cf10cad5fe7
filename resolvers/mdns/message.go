package mdns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// domain is the only one that multicast DNS speaks of (RFC 6762 section 3).
	domain = "local."
	// enumeration lists the service types of a link (RFC 6763 section 9).
	enumeration = "_services._dns-sd._udp.local."
	// ownType is Farcall's own service type.
	ownType = "_farcall._tcp.local."

	// topBit is the cache-flush bit of a record's class, and in a question the wish for a unicast
	// answer (RFC 6762 sections 10.2 and 5.4).
	topBit = 1 << 15

	// A record lives as long as its sender says, within these bounds: RFC 6762 section 10 wants
	// 120 s where a record names a host, so that a host that died is noticed, and 75 minutes else.
	// daprd says 3200 s for its SRV, and would be listed for an hour after its death.
	mostHostTTL  = 120 * time.Second
	mostOtherTTL = 75 * time.Minute
)

// record is one resource record of the five types that browsing needs.
type record struct {
	name   string // in presentation form, spelt as the sender spells it
	kind   uint16 // dns.TypePTR and so on
	target string // of a PTR or SRV, in presentation form
	port   uint16 // of an SRV
	texts  []string
	addr   netip.Addr
	ttl    time.Duration // 0: a goodbye
	flush  bool
	// foreign says that another host said it.
	foreign bool
}

// question is one of a query.
type question struct {
	name string
	kind uint16
}

// asked is a question as it came in.
type asked struct {
	question
	unicast bool // the asker would like a unicast answer
}

// message is one packet.
type message struct {
	id        uint16
	response  bool
	truncated bool // more known answers follow
	questions []asked
	// records are all of a response, and the known answers of a query.
	records []record
	// proposed are those that a probe wants to use.
	proposed []record
}

// errNotOurs says that a packet is DNS, but none that multicast DNS takes (RFC 6762 sections
// 18.3 and 18.11).
var errNotOurs = errors.New("opcode or response code is not zero")

// decode reads a packet. It never panics, and what it returns is bounded by the packet.
func decode(packet []byte) (message, error) {
	var m dns.Msg
	if err := m.Unpack(packet); err != nil {
		return message{}, fmt.Errorf("decode: %w", err)
	}
	if m.Opcode != dns.OpcodeQuery || m.Rcode != dns.RcodeSuccess {
		return message{}, errNotOurs
	}
	out := message{id: m.Id, response: m.Response, truncated: m.Truncated}
	for _, q := range m.Question {
		if class := q.Qclass &^ topBit; class == dns.ClassINET || class == dns.ClassANY {
			out.questions = append(out.questions, asked{question{q.Name, q.Qtype}, q.Qclass&topBit != 0})
		}
	}
	out.records = take(nil, m.Answer)
	if m.Response {
		out.records = take(out.records, m.Ns)
		out.records = take(out.records, m.Extra)
	} else {
		out.proposed = take(nil, m.Ns)
	}
	return out, nil
}

// take appends the records of the types that matter.
func take(list []record, rrs []dns.RR) []record {
	for _, rr := range rrs {
		h := rr.Header()
		if h.Class&^topBit != dns.ClassINET {
			continue
		}
		r := record{name: h.Name, kind: h.Rrtype, flush: h.Class&topBit != 0}
		switch rr := rr.(type) {
		case *dns.PTR:
			r.target = rr.Ptr
			r.flush = false // a pointer is shared: nobody speaks for the others' (RFC 6762 section 10.2)
		case *dns.SRV:
			r.target, r.port = rr.Target, rr.Port
		case *dns.TXT:
			for _, t := range rr.Txt {
				r.texts = append(r.texts, unescape(t))
			}
		case *dns.A:
			r.addr, _ = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			r.addr, _ = netip.AddrFromSlice(rr.AAAA)
		default:
			continue
		}
		// The codec lets a record's data end before its fields do.
		switch address := r.kind == dns.TypeA || r.kind == dns.TypeAAAA; {
		case address && !r.addr.IsValid(), !address && r.kind != dns.TypeTXT && r.target == "":
			continue
		}
		r.ttl = boundTTL(r.kind, h.Ttl)
		list = append(list, r)
	}
	return list
}

// boundTTL gives the time that a record is believed: 0 is a goodbye and stays one.
func boundTTL(kind uint16, seconds uint32) time.Duration {
	most := mostOtherTTL
	if kind == dns.TypeSRV || kind == dns.TypeA || kind == dns.TypeAAAA {
		most = mostHostTTL
	}
	return min(time.Duration(seconds)*time.Second, most)
}

// rr gives the record for a packet. remaining is what the TTL says.
func (r record) rr(remaining time.Duration, flush bool) dns.RR {
	h := dns.RR_Header{Name: r.name, Rrtype: r.kind, Class: dns.ClassINET, Ttl: uint32(remaining / time.Second)}
	if flush {
		h.Class |= topBit
	}
	switch r.kind {
	case dns.TypePTR:
		return &dns.PTR{Hdr: h, Ptr: r.target}
	case dns.TypeSRV:
		return &dns.SRV{Hdr: h, Port: r.port, Target: r.target}
	case dns.TypeTXT:
		texts := make([]string, len(r.texts))
		for i, t := range r.texts {
			texts[i] = escapeText(t)
		}
		if len(texts) == 0 {
			texts = []string{""} // RFC 6763 section 6.1: a TXT without strings is not legal
		}
		return &dns.TXT{Hdr: h, Txt: texts}
	case dns.TypeA:
		return &dns.A{Hdr: h, A: net.IP(r.addr.AsSlice())}
	default:
		return &dns.AAAA{Hdr: h, AAAA: net.IP(r.addr.AsSlice())}
	}
}

// data identifies what the record says of its name.
func (r record) data() string {
	switch r.kind {
	case dns.TypePTR:
		return fold(r.target)
	case dns.TypeSRV:
		return string([]byte{byte(r.port >> 8), byte(r.port)}) + fold(r.target)
	case dns.TypeTXT:
		var b strings.Builder
		for _, t := range r.texts {
			b.WriteByte(byte(len(t))) // a string of a TXT has at most 255 bytes
			b.WriteString(t)
		}
		return b.String()
	default:
		return string(r.addr.AsSlice())
	}
}

// fold makes names comparable. Whatever is not ASCII stands in them as \DDD.
func fold(name string) string { return strings.ToLower(name) }

// unescape undoes the presentation form of a label or a text: \. and \DDD.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i+2 < len(s) && digit(s[i]) && digit(s[i+1]) && digit(s[i+2]) {
			b.WriteByte((s[i]-'0')*100 + (s[i+1]-'0')*10 + s[i+2] - '0')
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// escapeLabel makes one label of s, whatever is in it, in the form that the decoder gives: names
// are compared in it.
func escapeLabel(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case strings.IndexByte(`. '@;()"\`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\%03d`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// escapeText makes the presentation form of one string of a TXT.
func escapeText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\%03d`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// appOf gives the app-id that a service type means in Dapr's convention, which uses it bare,
// and whether the type is of that kind: in the domain, and no label begins with an underscore.
func appOf(serviceType string) (app string, bare bool) {
	rest, ok := cutSuffixFold(serviceType, "."+domain)
	if !ok || rest == "" {
		return "", false
	}
	for _, label := range dns.SplitDomainName(rest) {
		if label == "" || strings.HasPrefix(label, "_") {
			return "", false
		}
	}
	return unescape(rest), true
}

// labelOf gives the part of an instance's name before its type, and whether there is one.
func labelOf(name, serviceType string) (label string, ok bool) {
	rest, ok := cutSuffixFold(name, "."+serviceType)
	if !ok || rest == "" || strings.HasSuffix(rest, `\`) {
		return "", false
	}
	return unescape(rest), true
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if len(s) < len(suffix) || !strings.EqualFold(s[len(s)-len(suffix):], suffix) {
		return "", false
	}
	return s[:len(s)-len(suffix)], true
}
