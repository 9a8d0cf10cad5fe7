package daemon

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"
)

// How an agent's processors are counted. Calls that come one at a time wake a thread for every goroutine that
// takes part in them, as long as a processor of the runtime is idle: half of what such a call costs, and of
// what it waits. With one processor the goroutines follow each other on the thread that runs already.
const (
	// processorsEvery is how often it is looked how busy the process was.
	processorsEvery = 50 * time.Millisecond
	// busyShare of one processor is when all are taken: beyond it calls begin to wait for each other.
	busyShare = 0.7
	// calmShare of one processor, for calmAfter, is when all but one are given back.
	calmShare = 0.4
	calmAfter = 2 * time.Second
)

// processors decides whether the runtime uses one processor or all that there are.
type processors struct {
	all  bool
	calm time.Duration // for how long it has been so
}

// next takes how busy the process was for a while, in processors, and says whether to use all of them.
func (p *processors) next(busy float64, lasted time.Duration) bool {
	switch {
	case busy > busyShare:
		p.all, p.calm = true, 0
	case busy > calmShare:
		p.calm = 0
	default:
		if p.calm += lasted; p.calm >= calmAfter {
			p.all = false
		}
	}
	return p.all
}

// fewProcessors has the runtime use one processor while that is enough, until ctx is done. Who sets
// GOMAXPROCS has decided.
func fewProcessors(ctx context.Context) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	tick := time.NewTicker(processorsEvery)
	defer tick.Stop()
	defer runtime.SetDefaultGOMAXPROCS()
	p := processors{all: true} // starting is work
	for at, used := time.Now(), processorTime(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, total := time.Now(), processorTime()
		lasted := now.Sub(at)
		was := p.all
		all := p.next(float64(total-used)/float64(lasted), lasted)
		at, used = now, total
		switch {
		case all && !was:
			runtime.SetDefaultGOMAXPROCS()
		case was && !all:
			runtime.GOMAXPROCS(1)
		}
	}
}

// processorTime is what this process has had of the processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it never fails; if it did, nothing would look busy
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
