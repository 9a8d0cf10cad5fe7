package links

import (
	"fmt"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// judge decides who reports a link, whether it is to be retired, and tells what is wrong with
// it. The caller holds mu.
func (c *Cluster) judge(k *link, now time.Time) {
	c.choose(k, now)
	if c.overdue(k, now) {
		c.retire(k, now)
		return
	}
	if why := k.wrong(now); why != "" {
		k.fail(why)
	}
}

// choose keeps the reporter while it can report. Where it cannot and another can, that one is
// asked; where nobody can, it stays, so that its error is told.
func (c *Cluster) choose(k *link, now time.Time) {
	if k.reporter != nil {
		if _, names := k.named[k.reporter]; !names {
			c.revoke(k)
		}
	}
	if k.reporter != nil && k.candidate(k.reporter, now) && !k.silent(now) || now.Sub(k.refused) < refusedFor {
		return
	}
	var best *Contributor
	for x := range k.named {
		if x != k.reporter && k.candidate(x, now) && (best == nil || x.before(best)) {
			best = x
		}
	}
	if best != nil {
		c.grant(k, best, now)
	}
}

// candidate reports whether x can report k: it has read it completely, without an error since,
// and was answered just now.
func (k *link) candidate(x *Contributor, now time.Time) bool {
	st, names := k.named[x]
	return names && st.complete && st.failure == "" && st.fresh && now.Sub(st.at) <= standingFor
}

// silent reports whether the reporter was asked for the link's list long ago and sends nothing.
func (k *link) silent(now time.Time) bool {
	return k.reporter != nil && !k.listed && now.Sub(k.asked) > silentFor
}

// grant makes x the reporter of k under a new term.
func (c *Cluster) grant(k *link, x *Contributor, now time.Time) {
	c.revoke(k)
	if k.last != "" {
		c.metrics.handovers.Inc()
	}
	c.term++
	c.log.Info("link has a reporter", "link", k.name, "node", x.node, "term", c.term, "before", k.last)
	k.reporter, k.term, k.last = x, c.term, x.node
	k.asked, k.listed = now, false
	x.grant(k.name, k.term)
	c.deps.Reported()
}

// revoke takes k from its reporter, if it has one; what that sent a part of is dropped.
func (c *Cluster) revoke(k *link) {
	if k.reporter == nil {
		return
	}
	k.reporter.forget(k.name)
	k.reporter.grant(k.name, 0)
	k.reporter = nil
	c.deps.Reported()
}

// refuse takes k from a reporter whose list is too large. What was published stays, and is not
// patched with what came after: the next list that is taken is a whole one again.
func (c *Cluster) refuse(k *link, now time.Time) {
	c.metrics.drop(tooLarge)
	c.log.Warn("link lists too much and is not read", "link", k.name, "node", k.last, "most", maxBytes)
	k.refused = now
	c.revoke(k)
	c.judge(k, now)
}

// overdue reports whether nobody has named k for so long that it is to be retired.
func (c *Cluster) overdue(k *link, now time.Time) bool {
	if len(k.named) > 0 {
		k.unnamed = time.Time{}
		return false
	}
	if k.unnamed.IsZero() {
		k.unnamed = now
	}
	switch since := now.Sub(k.unnamed); {
	case since < unnamedFor:
		return false
	case since >= staleTTL:
		return true
	case k.last == "" && (c.owner || !k.stored):
		// Nobody ever reported it: there is nothing to keep, and while it is waited for, the cluster
		// is not complete. Who does not own the cluster keeps what the owner keeps.
		return len(c.deps.Stored(k.name)) == 0
	}
	s := c.seats[k.last]
	if s == nil {
		return false
	}
	for x := range s.contributors {
		if now.Sub(x.joined) >= unnamedFor {
			return true
		}
	}
	return false
}

// retire takes k away. What it listed goes as the guard sees fit; of a link that was not read
// since this process began, that is what the store holds.
func (c *Cluster) retire(k *link, now time.Time) {
	c.log.Info("link is retired: no agent names it any more", "link", k.name, "reporter", k.last)
	c.remove(k, now)
	if k.out != nil && !k.published {
		if held := c.deps.Stored(k.name); len(held) > 0 {
			k.out.Publish(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{{Instances: held}}})
		}
	}
	k.fail("no agent names it any more: what it listed is taken back")
	c.deps.Registries.Retire(k.name)
	c.deps.Reported()
}

// remove takes k out of the links, and remembers who reported it. The caller holds mu.
func (c *Cluster) remove(k *link, now time.Time) {
	delete(c.links, k.name)
	if len(c.gone) < maxLinks {
		c.gone[k.name] = goneLink{reporter: k.last, at: now}
	}
}

// wrong says what keeps a link from being read, in words that change only when it does; empty
// where nothing does, or it cannot be told yet.
func (k *link) wrong(now time.Time) string {
	if !k.refused.IsZero() && len(k.named) > 0 {
		return fmt.Sprintf("%s lists more than %d MiB of it, which is not taken: leave services out with `include` or `exclude`", k.last, maxBytes>>20)
	}
	nobody := "no agent reports it"
	if k.last != "" {
		nobody += "; " + k.last + " did last"
	}
	if k.reporter == nil {
		x := k.first(now)
		switch {
		case x != nil && k.named[x].failure != "":
			return x.node + ": " + k.named[x].failure
		case x != nil && k.last == "", now.Sub(k.created) <= standingFor:
			return "" // it is being read for the first time, or those who read it are on their way
		}
		return nobody
	}
	st := k.named[k.reporter]
	switch {
	case now.Sub(st.at) > standingFor:
		return nobody
	case st.failure != "":
		return st.failure
	case k.silent(now):
		return k.reporter.node + " was asked for its list and sends none"
	}
	return ""
}

// first gives the first of those who name k now, one with an error before one without; nil where
// there is none.
func (k *link) first(now time.Time) *Contributor {
	var best *Contributor
	for x, st := range k.named {
		if now.Sub(st.at) > standingFor {
			continue
		}
		if best == nil {
			best = x
			continue
		}
		if has, had := st.failure != "", k.named[best].failure != ""; has != had && has || has == had && x.before(best) {
			best = x
		}
	}
	return best
}
