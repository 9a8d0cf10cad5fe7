//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

// outcome is what became of an episode.
type outcome struct {
	number     int
	faults     []history.Fault // as they ended
	calls      int
	settled    time.Duration // from the last fault's end until everybody showed the truth
	took       time.Duration
	violations []string
}

func (o outcome) String() string {
	var faults []string
	for _, f := range o.faults {
		if f.Effect == "" {
			f.Effect = "NO EFFECT"
		}
		faults = append(faults, fmt.Sprintf("%s (%s): %s", f.Kind, f.Target, f.Effect))
	}
	end := "ok"
	if len(o.violations) > 0 {
		end = fmt.Sprintf("%d VIOLATIONS", len(o.violations))
	}
	return fmt.Sprintf("episode %3d: %s | %d calls, settled in %s, took %s: %s",
		o.number, strings.Join(faults, "; "), o.calls, o.settled.Round(10*time.Millisecond), o.took.Round(100*time.Millisecond), end)
}

// settleTime is how long everybody may take to show the truth once nothing is wrong any more. What the
// promises give them adds up to less than half of it: removals are held for 10 s, owners change in 5 s, a
// cluster's marker comes when its registries were read, agents come back within seconds. The rest is for
// a machine that does other things besides.
const settleTime = time.Minute

// step is the beginning or the end of a fault of an episode.
type step struct {
	at  time.Duration
	run func(context.Context) error
}

// episode lets the planned faults happen under traffic, waits until all has settled and judges. Its
// error is one of the suite's own; what the federation did wrong stands in the outcome.
func (w *world) episode(ctx context.Context, number int, plan []planned) (outcome, error) {
	began := time.Now()
	o := outcome{number: number}
	w.rec.Episode(number)
	w.rec.Add(history.Event{Phase: &history.Phase{Name: history.Faults}})
	stop := w.startTraffic(ctx)
	err := w.makeFaults(ctx, plan, &o)
	w.rec.Add(history.Event{Phase: &history.Phase{Name: history.Healed}})
	stop()
	if err != nil {
		return o, err
	}
	healed := time.Now()
	if err := w.settle(ctx); err != nil {
		o.violations = append(o.violations, fmt.Sprintf("%v: %s after all faults had ended: %v", verdict.ErrConvergence, settleTime, err))
	} else {
		w.rec.Add(history.Event{Phase: &history.Phase{Name: history.Settled}})
	}
	o.settled = time.Since(healed)
	dead := w.dead()
	for _, p := range dead {
		w.rec.Add(history.Event{Process: &p})
	}
	if err := w.observeEpisode(ctx); err != nil && len(dead) == 0 {
		return o, err // of the dead nobody can say how they are
	}
	events := w.rec.Events()
	for _, e := range events {
		if e.Call != nil {
			o.calls++
		}
	}
	for _, v := range verdict.Judge(events) {
		o.violations = append(o.violations, v.Error())
	}
	o.took = time.Since(began)
	return o, w.rec.Flush()
}

// makeFaults begins and ends the faults at their times, one thing at a time. One that begins late is
// held as long all the same.
func (w *world) makeFaults(ctx context.Context, plan []planned, o *outcome) error {
	var steps []step
	began := time.Now()
	o.faults = make([]history.Fault, len(plan))
	for n, p := range plan {
		steps = append(steps, step{p.at, func(ctx context.Context) error {
			end, err := w.beginFault(ctx, p, &o.faults[n])
			steps = append(steps, step{time.Since(began) + p.hold, end})
			return err
		}})
	}
	for len(steps) > 0 {
		at := 0
		for n := range steps {
			if steps[n].at < steps[at].at {
				at = n
			}
		}
		next := steps[at]
		steps = slices.Delete(steps, at, at+1)
		if !pause(ctx, time.Until(began.Add(next.at))) {
			return ctx.Err()
		}
		if err := next.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// beginFault begins one, writes it down into f and the history, and gives what ends it.
func (w *world) beginFault(ctx context.Context, p planned, f *history.Fault) (end func(context.Context) error, err error) {
	all := kinds()
	k := all[slices.IndexFunc(all, func(k kind) bool { return k.name == p.kind })]
	since := w.rec.Now()
	begun, endIt, err := k.begin(ctx, w, rand.New(rand.NewPCG(p.seed, 1)))
	if err != nil {
		return nil, fmt.Errorf("begin %s: %w", k.name, err)
	}
	begun.Kind, begun.Since = k.name, since
	*f = begun
	w.rec.Add(history.Event{Fault: &begun})
	return func(ctx context.Context) error {
		effect, err := endIt(ctx)
		if err != nil {
			return fmt.Errorf("end %s: %w", k.name, err)
		}
		ended := begun
		ended.Ended, ended.Effect = true, effect
		*f = ended
		w.rec.Add(history.Event{Fault: &ended})
		return nil
	}, nil
}

// settle waits until everybody shows the truth.
func (w *world) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := w.disagreement()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
