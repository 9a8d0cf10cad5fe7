package reachability

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// learnEvery is how often the view is asked which relays it knows, and learnSoon while it knows
	// none.
	learnEvery, learnSoon = 5 * time.Second, time.Second
	// probeEvery is how often, about, a cluster is probed once its distance is measured; until then
	// it is probed every probeSoon.
	probeEvery, probeSoon = 5 * time.Second, time.Second
	// samples is how many relays of a cluster are probed, one after the other.
	samples = 3
	// askEvery is how often all the other relays of a cluster are dialled because one does not answer.
	askEvery = time.Second
)

// cluster is another cluster, as far as its relays tell of it.
type cluster struct {
	name   string
	relays []string // what the view knows, a few of them
	sample []string // those that are probed: the same ones again and again, so that times compare
	turn   int
	due    time.Time // when it is probed next
	// doubted says that one of the relays was found not to answer, and the others are to be asked.
	doubted bool
	asked   time.Time // when they were last
	// dead says that no relay answers. A few that do not say nothing of the others: they could share a
	// rack.
	dead     bool
	distance distance
}

// learn asks the view which relays there are.
func (l *loop) learn(now time.Time) {
	if now.Before(l.learnAt) {
		return
	}
	known := l.t.relays()
	l.learnAt = now.Add(learnEvery)
	if len(known) == 0 {
		l.learnAt = now.Add(learnSoon)
	}
	for name, c := range l.clusters {
		if len(known[name]) == 0 {
			delete(l.clusters, name)
			l.news = l.news || c.dead || c.distance.measured()
			l.t.metrics.forget(name)
		}
	}
	clear(l.owners)
	for name, relays := range known {
		if len(relays) == 0 {
			continue
		}
		c := l.clusters[name]
		if c == nil {
			// A federation whose agents all start at once is not probed all at once.
			c = &cluster{name: name, due: now.Add(rand.N(probeSoon))}
			l.clusters[name] = c
		}
		c.relays = relays
		for _, a := range relays {
			l.owners[a] = append(l.owners[a], c)
		}
		l.judge(c)
	}
}

// probe connects to one relay of each cluster that is due, and to all of one that is in doubt. Those
// that are down are dialled anyway.
func (l *loop) probe(now time.Time) {
	for _, c := range l.clusters {
		l.ask(now, c)
		if now.Before(c.due) {
			continue
		}
		c.due = now.Add(jitter(probeEvery))
		if !c.distance.measured() {
			c.due = now.Add(jitter(probeSoon))
		}
		l.resample(c)
		if len(c.sample) == 0 {
			continue
		}
		c.turn = (c.turn + 1) % len(c.sample)
		if a := c.sample[c.turn]; !l.dialling[a] {
			l.dial(a, true)
		}
	}
}

// resample replaces those of the sample that are down or gone.
func (l *loop) resample(c *cluster) {
	unfit := func(a string) bool {
		_, down := l.down[a]
		return down || !slices.Contains(c.relays, a)
	}
	c.sample = slices.DeleteFunc(c.sample, unfit)
	for _, at := range rand.Perm(len(c.relays)) {
		if len(c.sample) == samples {
			return
		}
		if a := c.relays[at]; !unfit(a) && !slices.Contains(c.sample, a) {
			c.sample = append(c.sample, a)
		}
	}
}

// heard takes that an address answered.
func (l *loop) heard(address string, took time.Duration) {
	for _, c := range l.owners[address] {
		l.judge(c)
		if c.distance.add(took) {
			l.news = true
		}
	}
}

// silent takes that an address went down. Then the others of its cluster are called as witnesses.
func (l *loop) silent(now time.Time, address string) {
	for _, c := range l.owners[address] {
		c.doubted = true
		l.judge(c)
		l.ask(now, c)
	}
}

// ask dials the relays of a cluster in doubt that are not known to be down.
func (l *loop) ask(now time.Time, c *cluster) {
	if !c.doubted || now.Sub(c.asked) < askEvery {
		return
	}
	c.doubted, c.asked = false, now
	for _, a := range c.relays {
		if l.down[a] == nil {
			l.look(a)
		}
	}
}

// judge says whether a cluster is dead.
func (l *loop) judge(c *cluster) {
	dead := !slices.ContainsFunc(c.relays, func(a string) bool { return l.down[a] == nil })
	if dead == c.dead {
		return
	}
	c.dead, l.news = dead, true
	if dead {
		l.t.log.Warn("a cluster cannot be reached", "cluster", c.name, "relays", len(c.relays))
	} else {
		l.t.log.Info("a cluster can be reached again", "cluster", c.name)
	}
}

// jitter gives a time around d, so that agents that began together part.
func jitter(d time.Duration) time.Duration { return d*4/5 + rand.N(d*2/5) }
