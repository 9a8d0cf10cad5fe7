package view

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/strategy"
)

// Service is what is known of one service at one moment. It is immutable, but for the plans
// that it makes when they are first asked for, and anew when they are due.
type Service struct {
	facts

	// plain are plans without a pin, by planIndex, and before what the plan before each of them
	// remembered.
	plain  [planKinds]atomic.Pointer[Plan]
	before [planKinds]strategy.State
	mu     sync.Mutex // guards pinned, and the making of plans
	// pinned are plans of calls that name a cluster, no more than maxPinned. An unknown cluster makes
	// none.
	pinned map[pinKey]*Plan
}

// maxPinned bounds what callers that pin to every cluster, with every strategy, can have a service keep.
const maxPinned = 32

// facts are what plans are made of.
type facts struct {
	name          catalog.Name
	known         bool                 // some cluster lists it
	candidates    []strategy.Candidate // in identity order
	loads         []*pick.Load         // what was measured of each of them
	ejected       int                  // how many of them are
	index         *reach.Index         // by which they are reached
	clusters      map[string]strategy.ClusterInfo
	clustersKnown bool
	caller        strategy.Caller
	set           *policy.Set   // all policies
	annotation    strategy.Kind // what the own cluster's registries say
	policy        *policy.Effective
	policiesKnown bool
	cordons       []strategy.Cordon
	advancing     bool
	rings         *pick.Rings // of the pickers of all its plans; nil where they have none
	book          *Book       // which is told when a plan is due; nil for nobody
}

type pinKey struct {
	override strategy.Kind
	cluster  string
}

// Candidates returns every known instance and how it is reached, in identity order. Not to be
// changed.
func (s *Service) Candidates() []strategy.Candidate { return s.candidates }

// Policy is what is in force for calls of the service from here, whoever stated it. Not to be
// changed.
func (s *Service) Policy() *policy.Effective { return s.policy }

// AgentAt gives the node of the agent by which an instance of the service is reached at an address; see
// reach.Index.
func (s *Service) AgentAt(i *catalog.Instance, address string) (node string, ok bool) {
	return s.index.AgentAt(i, address)
}

// PoliciesKnown reports whether the policies were read once. Until then calls stay local.
func (s *Service) PoliciesKnown() bool { return s.policiesKnown }

// Known reports whether some cluster lists the service, be it without any instance.
func (s *Service) Known() bool { return s.known }

// planKinds is how many plans without a pin there are.
const planKinds = 7

// planIndex numbers them: 0 is for calls that name no strategy; below 0 there is none.
func planIndex(override strategy.Kind) int {
	switch override {
	case "":
		return 0
	case strategy.LocalFirst:
		return 1
	case strategy.ExternalFirst:
		return 2
	case strategy.LocalOnly:
		return 3
	case strategy.ExternalOnly:
		return 4
	case strategy.Broadcast:
		return 5
	case strategy.Any:
		return 6
	default:
		return -1
	}
}

var overrides = [planKinds]strategy.Kind{
	"", strategy.LocalFirst, strategy.ExternalFirst, strategy.LocalOnly, strategy.ExternalOnly, strategy.Broadcast, strategy.Any,
}

// Plan returns the plan for a call. override is the strategy that the call itself names, empty
// for the one in force; pin, where not empty, limits it to one cluster. Whether overrides are
// denied is for the caller to look at. The error is a *strategy.InputError.
func (s *Service) Plan(override strategy.Kind, pin string) (*Plan, error) {
	at := planIndex(override)
	switch {
	case pin != "":
		return s.planPinned(pinKey{override, pin})
	case at < 0:
		return s.plan(override, "", strategy.State{})
	}
	if p := s.plain[at].Load(); p != nil {
		return p, nil
	}
	// The calls that come right after a change wait for one plan, and do not make one each.
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plain[at].Load(); p != nil {
		return p, nil
	}
	return s.planPlain(at, s.before[at])
}

// planPlain makes a plan without a pin and keeps it.
func (s *Service) planPlain(at int, previous strategy.State) (*Plan, error) {
	p, err := s.plan(overrides[at], "", previous)
	if err == nil {
		s.plain[at].Store(p)
		s.announce(p)
	}
	return p, err
}

func (s *Service) planPinned(key pinKey) (*Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pinned[key]; p != nil {
		return p, nil
	}
	p, err := s.plan(key.override, key.cluster, strategy.State{})
	if err != nil {
		return nil, err
	}
	if _, ok := s.clusters[key.cluster]; ok {
		if s.pinned == nil {
			s.pinned = map[pinKey]*Plan{}
		}
		if len(s.pinned) >= maxPinned {
			for any := range s.pinned { // which of them is left to chance
				delete(s.pinned, any)
				break
			}
		}
		s.pinned[key] = p
		s.announce(p)
	}
	return p, nil
}

// announce counts a plan and has it made anew when it is due.
func (s *Service) announce(p *Plan) {
	if s.book == nil {
		return
	}
	s.book.metrics.planned(p)
	s.book.agenda.plan(s.name, p.due)
}

// eager says that plans change with time or remember it, so that they are made anew at every
// change and not only when a call asks.
func (f *facts) eager() bool {
	return f.policy.Failback.Hold > 0 || f.policy.Failback.Ramp > 0 || f.policy.WarmUp > 0
}

// takeOver goes on where old stops: with what its plans remember, and, where that matters, with
// the plans that it had.
func (s *Service) takeOver(old *Service) {
	if s.policy == old.policy || sameTiers(&s.policy.Policy, &old.policy.Policy) {
		for at := range old.plain {
			s.before[at] = old.before[at]
			if p := old.plain[at].Load(); p != nil {
				s.before[at] = p.state
			}
		}
	}
	if !s.eager() {
		return
	}
	for at := range old.plain {
		if old.plain[at].Load() != nil {
			_, _ = s.planPlain(at, s.before[at]) // an error is for those who ask for the plan
		}
	}
}

// sameTiers reports whether two policies make the same tiers and hold them back alike, so that
// what was remembered under one of them means something under the other.
func sameTiers(a, b *strategy.Policy) bool {
	return a.Strategy == b.Strategy && a.Failover == b.Failover && a.Failback == b.Failback &&
		slices.EqualFunc(a.ExternalOrder, b.ExternalOrder, slices.Equal)
}

// renew makes the plans anew that are due, and forgets those with a pin, which are made again when
// a call asks.
func (s *Service) renew(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := range s.plain {
		p := s.plain[at].Load()
		switch {
		case p == nil:
		case !p.isDue(now):
			s.announceAgain(p)
		default:
			_, _ = s.planPlain(at, p.state) // an error is for those who ask for the plan
		}
	}
	for key, p := range s.pinned {
		if p.isDue(now) {
			delete(s.pinned, key)
		} else {
			s.announceAgain(p)
		}
	}
}

// announceAgain has a plan that was announced before made anew when it is due.
func (s *Service) announceAgain(p *Plan) {
	if s.book != nil { // else the service has gone since
		s.book.agenda.plan(s.name, p.due)
	}
}

// String names the service and counts its instances, for logs.
func (s *Service) String() string { return fmt.Sprintf("%s (%d instances)", s.name, len(s.candidates)) }
