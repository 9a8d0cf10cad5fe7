package verdict

import (
	"fmt"
	"strings"

	"github.com/farcall/farcall/test/robustness/history"
)

// order judges I2 of readers: within one stream of the feed no key's revision, epoch or seq goes back,
// and on an agent's disk no key's epoch and seq do, whatever became of the store meanwhile.
func (e *episode) order() {
	type kept struct {
		who, store, key string
		stream          uint64
	}
	newest := map[kept]*history.Entry{}
	judged := map[string]int{}
	for _, v := range e.all() {
		n := v.Entry
		if n == nil || n.Who == Store {
			continue
		}
		at := kept{who: n.Who, key: n.Key}
		disk := strings.HasPrefix(n.Who, Disk)
		if !disk {
			at.store, at.stream = n.Store, n.Stream
		}
		old := newest[at]
		newest[at] = n
		kind, _, _ := strings.Cut(n.Who, " ")
		judged[kind]++
		if old == nil || v.Episode != e.last.Episode {
			continue
		}
		agent := Agent + strings.TrimPrefix(n.Who, Disk)
		switch {
		case disk && e.forgot(agent, v.At):
		case !disk && n.Revision < old.Revision:
			e.broke(ErrOrder, v.At, "%s was given %s at revision %d after %d", n.Who, n.Key, n.Revision, old.Revision)
		case older(n, old):
			e.broke(ErrOrder, v.At, "%s has %s of epoch %d, seq %d after epoch %d, seq %d", n.Who, n.Key, n.Epoch, n.Seq, old.Epoch, old.Seq)
		}
	}
	for _, kind := range []string{Feed, Disk} {
		if judged[strings.TrimSpace(kind)] == 0 {
			e.nothing("no %swas read", kind)
		}
	}
}

// all gives what stood and the episode's events.
func (e *episode) all() []history.Event {
	return append(e.stood[:len(e.stood):len(e.stood)], e.events...)
}

// older reports whether a value comes before another in its cluster's order. Values without an epoch
// (an agent's record, a deletion) are in none.
func older(n, old *history.Entry) bool {
	if n.Deleted || old.Deleted || n.Epoch == 0 || old.Epoch == 0 {
		return false
	}
	return n.Epoch < old.Epoch || n.Epoch == old.Epoch && n.Seq < old.Seq
}

// clusterOf gives the cluster that a key is written under an epoch of, "" for none.
func clusterOf(key string) string {
	_, rest, ok := strings.Cut(key, "/clusters/")
	cluster, _, below := strings.Cut(rest, "/")
	if !ok || !below {
		return ""
	}
	return cluster
}

// fences judges I2 of writers, by what the store itself saw, in its own order: no epoch of a cluster
// is written under after a later one, and each by one replica only.
func (e *episode) fences() {
	type term struct {
		store, cluster string
		epoch          uint64
	}
	latest := map[string]*history.Entry{} // by store and cluster
	writers := map[term]string{}
	values := map[string]*history.Entry{} // by store and key
	judged := 0
	for _, v := range e.all() {
		n := v.Entry
		if n == nil || n.Who != Store {
			continue
		}
		judged++
		cluster := clusterOf(n.Key)
		if n.Deleted || n.Epoch == 0 || cluster == "" {
			continue
		}
		at, stood := n.Store+" "+cluster, v.Episode != e.last.Episode
		if was := latest[at]; was != nil && !stood && n.Revision > was.Revision && n.Epoch < was.Epoch {
			e.broke(ErrFenced, v.At, "%s was written at revision %d under epoch %d, after revision %d was under epoch %d", n.Key, n.Revision, n.Epoch, was.Revision, was.Epoch)
		} else if was == nil || n.Revision > was.Revision {
			latest[at] = n
		}
		key := n.Store + " " + n.Key
		if was := values[key]; was != nil && !stood && n.Revision > was.Revision && older(n, was) {
			e.broke(ErrOrder, v.At, "the store has %s of epoch %d, seq %d after epoch %d, seq %d", n.Key, n.Epoch, n.Seq, was.Epoch, was.Seq)
		}
		values[key] = n
		of := term{n.Store, cluster, n.Epoch}
		if was := writers[of]; !stood && n.Writer != "" && was != "" && was != n.Writer {
			e.broke(ErrFenced, v.At, "%s was written by %s under epoch %d, which is %s's", n.Key, n.Writer, n.Epoch, was)
		}
		if n.Writer != "" {
			writers[of] = n.Writer
		}
	}
	if judged == 0 {
		e.nothing("the store was not read")
	}
}

// coverage judges I8: of each key that changed in the store until all was settled, each reader of the
// feed was given that change or a later one.
func (e *episode) coverage() {
	if e.settled == 0 {
		return // convergence says so
	}
	type at struct{ who, key string }
	given := map[at]*history.Entry{}
	store := map[string]*history.Entry{}
	whos := map[string]bool{}
	for _, v := range e.all() {
		n := v.Entry
		switch {
		case n == nil || v.At > e.settled:
		case n.Who == Store:
			store[n.Key] = n
		case strings.HasPrefix(n.Who, Feed):
			whos[n.Who] = true
			given[at{n.Who, n.Key}] = n
		}
	}
	if len(store) == 0 || len(whos) == 0 {
		return // order and fences say so
	}
	for key, n := range store {
		for who := range whos {
			g := given[at{who, key}]
			if missing := lacks(n, g); missing != "" {
				e.broke(ErrCoverage, e.settled, "%s was not given %s at revision %d: %s", who, key, n.Revision, missing)
			}
		}
	}
}

// lacks says in words what a reader lacks of a change, or nothing.
func lacks(n, given *history.Entry) string {
	switch {
	case n.Deleted && (given == nil || given.Deleted):
		return ""
	case given == nil:
		return "it knows nothing of the key"
	case n.Deleted:
		return fmt.Sprintf("it was deleted, and it has revision %d", given.Revision)
	case given.Deleted:
		return "it was told that it is deleted"
	case given.Revision < n.Revision:
		return fmt.Sprintf("it has revision %d", given.Revision)
	}
	return ""
}
