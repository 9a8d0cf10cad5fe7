package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/farcall/farcall/internal/catalog"
)

// maxTargets is how many targets of one service are looked for at a time.
const maxTargets = 16

// hosts are the addresses of one name.
type hosts struct {
	addrs   []netip.Addr // in order, each once
	empty   int          // records that hold no address
	outcome outcome
	broken  string
	at      time.Time // when the youngest of the answers came
	expires time.Time
	// lost is why they could not be read; then the rest is that of the read before, or nothing.
	lost error
}

// reading is one successful read of a service.
type reading struct {
	outcome outcome
	snap    catalog.Snapshot
	// at is when the youngest of the answers came, and due when it is to be read again.
	at, due time.Time
	// targets are the hosts of the SRV targets, for the next read.
	targets map[string]hosts
	// stale says that some of these are older than the DNS allows, and why.
	stale error
}

// read reads one service. before are the targets of its last successful read; nil: there was none.
// afresh asks for the service's own records even where they are held.
//
// An error says that some of it could not be read and was never known: nothing is to be published.
func (l *lookups) read(ctx context.Context, s service, before map[string]hosts, afresh bool) (reading, error) {
	if s.fromRecord == "" {
		h, err := l.hosts(ctx, s.ask.name, s.family, nil, afresh)
		if err != nil {
			return reading{}, fmt.Errorf("%s %s: %w", s.ask.name, familyWords(s.family), err)
		}
		return reading{outcome: h.outcome, snap: s.addressSnapshot(h), at: h.at, due: h.expires, targets: map[string]hosts{}}, nil
	}
	srv, err := l.get(ctx, s.ask, afresh)
	if err != nil {
		return reading{}, fmt.Errorf("%s: %w", s.ask, err)
	}
	r := reading{outcome: srv.outcome, at: srv.at, due: srv.expires}
	if r.targets, err = l.targets(ctx, s, srv, before); err != nil {
		return reading{}, err
	}
	for _, name := range sortedKeys(r.targets) {
		h := r.targets[name]
		if h.expires.Before(r.due) {
			r.due = h.expires
		}
		if h.at.After(r.at) {
			r.at = h.at
		}
		if h.lost != nil && h.outcome != unread {
			l.metrics.stale.Inc()
			if r.stale == nil {
				r.stale = fmt.Errorf("%s, target %s %s: %w", s.ask, name, familyWords(s.family), h.lost)
			}
		}
	}
	r.snap = s.srvSnapshot(srv, r.targets)
	return r, nil
}

// targets finds the hosts of all targets. One that cannot be read keeps its addresses (RFC 8767).
// One that was never read ends the first read of the service, as nobody could tell it from one
// that is gone; later it is left out until it can be read, unless nothing would be left: a service
// is not emptied by a failure.
func (l *lookups) targets(ctx context.Context, s service, srv *set, before map[string]hosts) (map[string]hosts, error) {
	var (
		mu      sync.Mutex
		out     = map[string]hosts{}
		giveUp  error // why the rest is not asked for
		missing error // the first failure, of a first read
		g       errgroup.Group
	)
	g.SetLimit(maxTargets)
	for _, name := range targetNames(srv.records) {
		g.Go(func() error {
			mu.Lock()
			err := giveUp
			mu.Unlock()
			var h hosts
			if err == nil {
				h, err = l.hosts(ctx, name, s.family, srv.extra, false)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				h = before[name]
				h.lost, h.expires = err, time.Now().Add(mostRetry)
				if missing == nil {
					missing = fmt.Errorf("%s, target %s %s: %w", s.ask, name, familyWords(s.family), err)
				}
				var u unanswered
				if before == nil || errors.As(err, &u) && u.silent() {
					giveUp = err
				}
			}
			out[name] = h
			return nil
		})
	}
	_ = g.Wait() // its functions return none
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case missing != nil && (before == nil || !anyAddress(out)):
		return nil, missing
	}
	return out, nil
}

func anyAddress(targets map[string]hosts) bool {
	for _, h := range targets {
		if len(h.addrs) > 0 {
			return true
		}
	}
	return false
}

// targetNames gives the names that SRV records point at, each once.
func targetNames(records []miekg.RR) []string {
	var names []string
	seen := map[string]bool{}
	for _, rr := range records {
		r, ok := rr.(*miekg.SRV)
		if !ok {
			continue
		}
		if name := canonical(r.Target); r.Target != "" && name != "." && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// hosts finds the addresses of a name in the wanted family. extra are those that came along with
// something else.
func (l *lookups) hosts(ctx context.Context, name, family string, extra map[question]*set, afresh bool) (hosts, error) {
	var h hosts
	for i, typ := range familyTypes(family) {
		if i > 0 && (h.outcome == noName || h.broken != "" || family != FamilyBoth && h.outcome == found) {
			break
		}
		q := question{name, typ}
		got := extra[q]
		if got == nil || !time.Now().Before(got.expires) {
			var err error
			if got, err = l.get(ctx, q, afresh); err != nil {
				return hosts{}, err
			}
		}
		h.add(got)
	}
	slices.SortFunc(h.addrs, netip.Addr.Compare)
	h.addrs = slices.Compact(h.addrs)
	return h, nil
}

// add takes one more set of address records in.
func (h *hosts) add(s *set) {
	if h.outcome != found {
		h.outcome = s.outcome
	}
	if s.at.After(h.at) {
		h.at = s.at
	}
	if h.expires.IsZero() || s.expires.Before(h.expires) {
		h.expires = s.expires
	}
	h.broken = s.broken
	for _, rr := range s.records {
		var raw []byte
		switch rr := rr.(type) {
		case *miekg.A:
			raw = rr.A
		case *miekg.AAAA:
			raw = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(raw); ok {
			h.addrs = append(h.addrs, a.Unmap())
		} else {
			h.empty++
		}
	}
}

// familyTypes gives the types of records to ask for, in order.
func familyTypes(family string) []uint16 {
	switch family {
	case FamilyIPv4:
		return []uint16{miekg.TypeA}
	case FamilyIPv6:
		return []uint16{miekg.TypeAAAA}
	}
	return []uint16{miekg.TypeA, miekg.TypeAAAA}
}

func familyWords(family string) string {
	switch family {
	case FamilyIPv4:
		return "A"
	case FamilyIPv6:
		return "AAAA"
	}
	return "A/AAAA"
}
