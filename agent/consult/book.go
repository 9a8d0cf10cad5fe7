package consult

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/farcall/farcall/agent/view"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

// book asks an agent's view.
type book struct{ *view.Book }

var (
	_ Plans = book{}
	_ Known = book{}
)

// FromBook returns the Answers of an agent with this view. calls is as of NewAnswers.
func FromBook(cfg Config, b *view.Book, calls func() map[catalog.Name]uint64) *Answers {
	return NewAnswers(cfg, book{b}, book{b}, calls)
}

// Decide implements Plans.
func (b book) Decide(n catalog.Name, override strategy.Kind, pin string) (strategy.Decision, *policy.Effective, error) {
	s := b.Service(n)
	p, err := s.Plan(override, pin)
	if err != nil {
		return strategy.Decision{}, nil, err
	}
	return p.Decision, s.Policy(), nil
}

// Suppose implements Plans.
func (b book) Suppose(n catalog.Name, set *policy.Set, override strategy.Kind, pin string) (strategy.Decision, *policy.Effective, error) {
	p, effective, err := b.Book.Suppose(n, set, override, pin)
	if err != nil {
		return strategy.Decision{}, nil, err
	}
	return p.Decision, effective, nil
}

// Clusters implements Known.
func (b book) Clusters() []*adminv1.ClusterStatus {
	var out []*adminv1.ClusterStatus
	for _, c := range b.Book.Clusters(time.Now()) {
		s := &adminv1.ClusterStatus{Cluster: c.Name, State: c.State.Proto()}
		if c.AgeKnown {
			s.Age = durationpb.New(c.Age)
		}
		out = append(out, s)
	}
	return out
}
