package mdns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// sinkRecord keeps what a Resolver tells. Its methods may be called concurrently.
type sinkRecord struct {
	mu       sync.Mutex
	updates  []catalog.Update
	sources  map[string]catalog.Snapshot // nil: nothing was published
	explicit bool                        // of the last update that removed something
	confirms int
	failures []error
}

var _ resolvers.Sink = (*sinkRecord)(nil)

func (s *sinkRecord) Publish(u catalog.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, u)
	before := len(s.instances())
	if u.Full {
		s.sources = map[string]catalog.Snapshot{}
	}
	for _, snap := range u.Snapshots {
		s.sources[snap.Source] = snap
	}
	if len(s.instances()) < before {
		s.explicit = u.Explicit
	}
}

func (s *sinkRecord) Confirm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirms++
}

func (s *sinkRecord) Failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, err)
}

// instances gives what is listed, in the order of sources. The caller holds mu.
func (s *sinkRecord) instances() (list []*catalog.Instance) {
	for _, name := range slices.Sorted(maps.Keys(s.sources)) {
		list = append(list, s.sources[name].Instances...)
	}
	return list
}

// setAside gives the records set aside in what stands. The caller holds mu.
func (s *sinkRecord) setAside() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(s.sources)) {
		for _, a := range s.sources[name].SetAside {
			list = append(list, a.String())
		}
	}
	return list
}

func (s *sinkRecord) lastRemovalExplicit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.explicit
}

func (s *sinkRecord) counts() (confirms, failures int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirms, len(s.failures)
}

func (s *sinkRecord) lastFailure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) == 0 {
		return nil
	}
	return s.failures[len(s.failures)-1]
}

// eventually waits until ok says that the list is right.
func (s *sinkRecord) eventually(t testing.TB, what string, ok func([]*catalog.Instance) error) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sources == nil {
			return fmt.Errorf("nothing was published; the failures: %v", s.failures)
		}
		return ok(s.instances())
	})
}

// follow runs a Resolver until the test ends.
func follow(t testing.TB, cfg Config) *sinkRecord {
	t.Helper()
	r, err := New(cfg, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	return followResolver(t, r)
}

func followResolver(t testing.TB, r *Resolver) *sinkRecord {
	t.Helper()
	s := &sinkRecord{}
	testkit.Go(t, "Resolver.Run", func(ctx context.Context) error { return ended(r.Run(ctx, s)) })
	return s
}

// announce runs a Registrar until the test ends or stop is called.
func announce(t testing.TB, cfg Config, apps ...resolvers.Registration) (stop func()) {
	t.Helper()
	r, err := NewRegistrar(cfg, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	return announceBy(t, r, apps...)
}

func announceBy(t testing.TB, r *Registrar, apps ...resolvers.Registration) (stop func()) {
	t.Helper()
	return testkit.Go(t, "Registrar.Run", func(ctx context.Context) error { return ended(r.Run(ctx, apps)) })
}

func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("Run returned %w", err)
}
