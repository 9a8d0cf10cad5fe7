package poll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// log writes down what a Sink is told, with the time since the Run began.
type log struct {
	began time.Time
	lines []string
}

func (l *log) add(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprint(time.Since(l.began), " ", fmt.Sprintf(format, args...)))
}
func (l *log) Publish(u catalog.Update) { l.add("publish %s full=%t", u.Revision, u.Full) }
func (l *log) Confirm()                 { l.add("confirm") }
func (l *log) Failed(err error)         { l.add("failed %v", err) }

type answer struct {
	revision string // empty: unchanged
	err      error
	takes    time.Duration // 0: at once
}

// script answers one after the other; the last one for ever.
func script(answers ...answer) Fetch {
	return func(ctx context.Context) (catalog.Update, bool, error) {
		a := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		if a.takes > 0 {
			timer := time.NewTimer(a.takes)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return catalog.Update{}, false, ctx.Err()
			case <-timer.C:
			}
		}
		return catalog.Update{Revision: a.revision}, a.revision != "", a.err
	}
}

func runFor(t *testing.T, p *Poll, d time.Duration) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	l := &log{began: time.Now()}
	if err := p.Run(ctx, l); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run returned %v, want the context's error", err)
	}
	if took := time.Since(l.began); took != d {
		t.Errorf("Run took %v, want to end with its context after %v", took, d)
	}
	return l.lines
}

func TestRun(t *testing.T) {
	down := errors.New("down")
	for _, tt := range []struct {
		name    string
		cfg     Config
		answers []answer
		runs    time.Duration
		want    []string
	}{
		{
			name: "asks at once, then every second by default", runs: 2500 * time.Millisecond,
			answers: []answer{{revision: "1"}, {}, {revision: "2"}},
			want:    []string{"0s publish 1 full=true", "1s confirm", "2s publish 2 full=true"},
		},
		{
			name: "an error publishes nothing, and the list that stood is confirmed again", runs: 2500 * time.Millisecond,
			answers: []answer{{revision: "1"}, {err: down}, {}},
			want:    []string{"0s publish 1 full=true", "1s failed down", "2s confirm"},
		},
		{
			name: "an error with a list publishes nothing", runs: 500 * time.Millisecond,
			answers: []answer{{revision: "1", err: down}},
			want:    []string{"0s failed down"},
		},
		{
			name: "nothing is told while it is not settled", runs: 2500 * time.Millisecond,
			answers: []answer{{err: ErrUnsettled}, {}, {revision: "1"}},
			want:    []string{"2s publish 1 full=true"},
		},
		{
			name: "a fetch that hangs is a failed read", cfg: Config{Every: time.Second, Timeout: 3 * time.Second}, runs: 4200 * time.Millisecond,
			answers: []answer{{takes: time.Hour}, {revision: "1"}},
			want:    []string{"3s failed context deadline exceeded", "3s publish 1 full=true", "4s publish 1 full=true"},
		},
		{
			name: "what the end cut short is not told", runs: 500 * time.Millisecond,
			answers: []answer{{takes: time.Hour}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := runFor(t, New(tt.cfg, script(tt.answers...)), tt.runs)
				if !slices.Equal(got, tt.want) {
					t.Errorf("the sink was told\n%q, want\n%q", got, tt.want)
				}
			})
		})
	}
}

func TestASecondRunStartsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{}, script(answer{revision: "1"}, answer{}))
		runFor(t, p, 1500*time.Millisecond)
		got := runFor(t, p, 1500*time.Millisecond)
		if want := []string{"0s publish 1 full=true", "1s confirm"}; !slices.Equal(got, want) {
			t.Errorf("the second sink was told\n%q, want\n%q", got, want)
		}
	})
}

func TestARunThatIsOverAsksNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := New(Config{}, func(context.Context) (catalog.Update, bool, error) {
		t.Error("asked")
		return catalog.Update{}, false, nil
	})
	if err := p.Run(ctx, &log{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
}
