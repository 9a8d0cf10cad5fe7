package dns

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func TestParse(t *testing.T) {
	const soa = "test. 300 IN SOA ns.test. h.test. 1 2 3 4 60"
	q := question{"a.test.", miekg.TypeA}
	long := make([]string, 20)
	for i := range long {
		long[i] = fmt.Sprintf("c%d.test. 60 CNAME c%d.test.", i, i+1)
	}
	long[0] = "a.test. 60 CNAME c1.test."
	for _, c := range []struct {
		name       string
		rcode      int
		answer, ns []string
		lame       bool // not authoritative

		want    outcome
		records int
		ttl     time.Duration
		next    string
		broken  string
		err     string
	}{
		{name: "addresses", answer: []string{"a.test. 60 A 10.0.0.1", "A.Test. 30 A 10.0.0.2", "b.test. 1 A 10.0.0.3", "a.test. 1 AAAA ::1", "a.test. 1 CH A 10.0.0.4"},
			want: found, records: 2, ttl: 30 * time.Second},
		{name: "an alias with its end", answer: []string{"a.test. 20 CNAME b.test.", "b.test. 60 A 10.0.0.1"}, want: found, records: 1, ttl: 20 * time.Second},
		{name: "an alias without its end", answer: []string{"a.test. 20 CNAME b.elsewhere."}, want: aliased, next: "b.elsewhere.", ttl: 20 * time.Second},
		{name: "an alias, and the SOA of another zone", answer: []string{"a.test. 20 CNAME b.elsewhere."}, ns: []string{soa}, want: aliased, next: "b.elsewhere.", ttl: 20 * time.Second},
		{name: "an alias to a name without records", answer: []string{"a.test. 90 CNAME b.test."}, ns: []string{soa}, want: noData, ttl: 60 * time.Second},
		{name: "an alias to no name", rcode: miekg.RcodeNameError, answer: []string{"a.test. 20 CNAME b.test."}, ns: []string{soa}, want: noName, ttl: 20 * time.Second},
		{name: "a circle", answer: []string{"a.test. 20 CNAME b.test.", "b.test. 20 CNAME a.test."}, want: noData, ttl: 20 * time.Second,
			broken: "a circle: a.test. -> b.test. -> a.test."},
		{name: "an alias to itself", answer: []string{"a.test. 20 CNAME a.test."}, want: noData, ttl: 20 * time.Second, broken: "a.test. -> a.test."},
		{name: "a long way", answer: long, want: noData, ttl: time.Minute, broken: "more than 11 aliases"},
		{name: "no records", ns: []string{soa}, want: noData, ttl: time.Minute},
		{name: "no records, and not for how long", want: noData},
		{name: "no name", rcode: miekg.RcodeNameError, ns: []string{soa}, want: noName, ttl: time.Minute},
		{name: "no name, and not for how long", rcode: miekg.RcodeNameError, lame: true, ns: []string{"test. 60 NS ns.test."}, want: noName},
		{name: "a referral", lame: true, ns: []string{"test. 60 NS ns.test."}, err: "not recursive"},
		{name: "both", rcode: miekg.RcodeNameError, answer: []string{"a.test. 60 A 10.0.0.1"}, err: "does not exist and gives its records"},
		{name: "a TTL with the highest bit", answer: []string{"a.test. 2147483648 A 10.0.0.1"}, want: found, records: 1},
		{name: "the longest TTL", answer: []string{"a.test. 2147483647 A 10.0.0.1"}, want: found, records: 1, ttl: math.MaxInt32 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &miekg.Msg{MsgHdr: miekg.MsgHdr{Rcode: c.rcode, Authoritative: !c.lame}}
			for _, text := range c.answer {
				m.Answer = append(m.Answer, rr(t, text))
			}
			for _, text := range c.ns {
				m.Ns = append(m.Ns, rr(t, text))
			}
			a, err := parse(q, m)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if a.outcome != c.want || len(a.records) != c.records || a.ttl != c.ttl || a.next != c.next ||
				(c.broken == "") != (a.broken == "") || !strings.Contains(a.broken, c.broken) {
				t.Errorf("%+v", a)
			}
		})
	}
}

func TestParseTakesTheAddressesThatComeAlong(t *testing.T) {
	m := &miekg.Msg{}
	m.Answer = []miekg.RR{rr(t, "_a._tcp.test. 60 SRV 0 0 1 X.test."), rr(t, "_a._tcp.test. 60 SRV 0 0 1 y.test.")}
	m.Extra = []miekg.RR{
		rr(t, "x.test. 5 A 10.0.0.1"), rr(t, "x.test. 9 A 10.0.0.2"), rr(t, "x.test. 7 AAAA ::2"),
		rr(t, "other.test. 5 A 10.0.0.3"), rr(t, "y.test. 5 TXT y"),
	}
	a, err := parse(question{"_a._tcp.test.", miekg.TypeSRV}, m)
	if err != nil {
		t.Fatal(err)
	}
	x4, x6 := a.extra[question{"x.test.", miekg.TypeA}], a.extra[question{"x.test.", miekg.TypeAAAA}]
	if len(a.extra) != 2 || len(x4.records) != 2 || x4.ttl != 5*time.Second || len(x6.records) != 1 || x6.ttl != 7*time.Second {
		t.Errorf("%+v", a.extra)
	}
}

func TestLifetimeIsBoundedAndSpread(t *testing.T) {
	l := newLookups(nil, Config{MinTTL: time.Second, MaxTTL: 30 * time.Second}, registryMetrics{})
	for ttl, want := range map[time.Duration]time.Duration{
		0: time.Second, 10 * time.Second: 10 * time.Second, math.MaxInt32 * time.Second: 30 * time.Second, math.MaxInt64: 30 * time.Second,
	} {
		seen := map[time.Duration]bool{}
		for range 100 {
			got := l.lifetime(ttl)
			if seen[got] = true; got < want || got > want+want/10 {
				t.Fatalf("TTL %v is held for %v, want %v and a tenth at most", ttl, got, want)
			}
		}
		if len(seen) < 2 {
			t.Errorf("TTL %v is always held for the same time: all would be asked for at once", ttl)
		}
	}
}
