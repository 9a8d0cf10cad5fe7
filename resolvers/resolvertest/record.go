package resolvertest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// Record is a Sink that keeps what it is told, for the tests that stand beside a kind. It is
// safe for concurrent use.
type Record struct {
	// Describe gives the lines that View has of a snapshot. Shows needs it.
	Describe func(catalog.Snapshot) []string

	mu       sync.Mutex
	sources  map[string]catalog.Snapshot
	updates  []catalog.Update
	times    []time.Time // of the updates
	confirms []time.Time
	failures []error
	failing  bool // the last word was Failed
}

var _ resolvers.Sink = (*Record)(nil)

// Publish keeps an update.
func (r *Record) Publish(u catalog.Update) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.Full || r.sources == nil {
		r.sources = map[string]catalog.Snapshot{}
	}
	for _, s := range u.Snapshots {
		r.sources[s.Source] = s
	}
	r.updates, r.times, r.failing = append(r.updates, u), append(r.times, time.Now()), false
}

// Confirm keeps when it was called.
func (r *Record) Confirm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.confirms, r.failing = append(r.confirms, time.Now()), false
}

// Failed keeps a failure.
func (r *Record) Failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures, r.failing = append(r.failures, err), true
}

// All gives the updates, when was confirmed, and what failed.
func (r *Record) All() (updates []catalog.Update, confirms []time.Time, failures []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.updates), slices.Clone(r.confirms), slices.Clone(r.failures)
}

// Times gives when each update came.
func (r *Record) Times() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.times)
}

// Trouble is why all is not well: the failure that was the last word, or that nothing was
// published yet; or it is nil.
func (r *Record) Trouble() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failing:
		return r.failures[len(r.failures)-1]
	case len(r.updates) == 0:
		return errors.New("nothing was published")
	}
	return nil
}

// Instances gives how many stand.
func (r *Record) Instances() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sources {
		n += len(s.Instances)
	}
	return n
}

// Sources gives how many there are.
func (r *Record) Sources() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sources)
}

// View is what stands, in lines, in order.
func (r *Record) View() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, s := range r.sources {
		lines = append(lines, r.Describe(s)...)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Shows reports whether View has these lines and no others.
func (r *Record) Shows(want ...string) func() error {
	wanted := strings.Join(slices.Sorted(slices.Values(want)), "\n")
	return func() error {
		if got := r.View(); got != wanted {
			return fmt.Errorf("it shows\n%s\nwant\n%s\nits trouble: %v", got, wanted, r.Trouble())
		}
		return nil
	}
}

// FailedWith reports whether there was a failure that holds all of the words.
func (r *Record) FailedWith(words ...string) func() error {
	return func() error {
		_, _, failures := r.All()
		for _, err := range failures {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(err.Error(), w) }) {
				return nil
			}
		}
		last := "none"
		if len(failures) > 0 {
			last = failures[len(failures)-1].Error()
		}
		return fmt.Errorf("none of %d failures has the words %q; the last: %s", len(failures), words, last)
	}
}
