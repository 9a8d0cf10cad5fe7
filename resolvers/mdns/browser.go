package mdns

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

const (
	// silence is how long own pulses may stay away before a link counts as not heard.
	silence = 3 * time.Second
	// fullFor is how long it is shown that records had no room.
	fullFor = time.Minute
)

// ear is one link as it is listened to.
type ear struct {
	*link
	nic nic
	// absent says that there is no interface of that name.
	absent bool
	// trouble is why nothing can be heard, by the looks of the interface.
	trouble string
	// deaf is trouble, or that own pulses do not come back; empty while the link is heard.
	deaf  string
	pulse time.Time // the last that came back; zero since the link was last in trouble
	tried time.Time // since when pulses may be expected
	// again says that the link was deaf and is listened to anew: its list is in doubt.
	again bool
	// placed says in which slot an instance of the link stands.
	placed map[string]slotKey
	fullAt time.Time // when a record had no room, last
}

// slot is one instance, by all that links say of it.
type slot struct {
	words []word // few: one per link and convention
	shown *candidate
	// explicit says that the last word went because its owner took it back.
	explicit bool
}

type word struct {
	ear  *ear
	name string
	cand *candidate
}

// browser puts the links together, decides when what was heard is complete, and tells the sink.
// It is pure but for its sink and its metrics: time and packets come in as arguments.
type browser struct {
	names   []string // of the chosen interfaces; none: all that will do
	out     resolvers.Sink
	metrics *metrics

	ears  map[string]*ear // by the interface's name
	slots map[slotKey]*slot
	dirty map[slotKey]struct{}
	// published says that the Full update of this Run is out.
	published bool
	fullShown bool
	stepped   time.Time // when step was last called
}

func newBrowser(names []string, out resolvers.Sink, m *metrics) *browser {
	return &browser{names: names, out: out, metrics: m,
		ears: map[string]*ear{}, slots: map[slotKey]*slot{}, dirty: map[slotKey]struct{}{}}
}

// examined takes the interfaces as they are now.
func (b *browser) examined(now time.Time, all []nic) {
	there := map[string]bool{}
	for _, n := range all {
		there[n.name] = true
		chosen := slices.Contains(b.names, n.name)
		if len(b.names) > 0 && !chosen {
			continue
		}
		b.take(now, n, n.trouble(chosen))
	}
	for _, name := range b.names {
		if !there[name] {
			b.take(now, nic{name: name}, "does not exist")
			b.ears[name].absent = true
		}
	}
	for name, e := range b.ears {
		if !there[name] && !slices.Contains(b.names, name) {
			e.absent = true
			e.stop("is gone")
		}
	}
	b.forget()
}

// take notes what one interface looks like.
func (b *browser) take(now time.Time, n nic, trouble string) {
	e := b.ears[n.name]
	if e == nil {
		if trouble != "" && len(b.names) == 0 {
			return
		}
		e = &ear{link: newLink(n.name, now), placed: map[string]slotKey{}, tried: now}
		b.ears[n.name] = e
	}
	e.absent = false
	if trouble == "" && e.trouble == "" && e.nic.index != 0 && e.nic.index != n.index {
		e.stop("was replaced")
	}
	switch {
	case trouble != "":
		e.stop(trouble)
	case e.trouble != "":
		e.trouble, e.tried = "", now
	}
	// An interface that is down may have lost its addresses, but its link is the same.
	if trouble != "" && len(e.nic.prefixes) > 0 {
		n.prefixes, n.v4, n.v6 = e.nic.prefixes, e.nic.v4, e.nic.v6
	}
	if !slices.Equal(n.prefixes, e.nic.prefixes) {
		e.readdress(n.prefixes)
	}
	e.nic = n
}

func (e *ear) stop(trouble string) { e.trouble, e.pulse = trouble, time.Time{} }

// forget drops links that nobody chose, that cannot be heard, and that nothing was heard on.
func (b *browser) forget() {
	if len(b.names) > 0 {
		return
	}
	for name, e := range b.ears {
		if e.trouble != "" && len(e.placed) == 0 {
			delete(b.ears, name)
		}
	}
}

// deafen says that nobody listened up to now: goodbyes and renewals may have been missed.
func (b *browser) deafen(now time.Time) {
	for _, e := range b.ears {
		e.pulse, e.tried = time.Time{}, now
		e.deaf = "was not listened to"
	}
}

// byIndex gives the ear of an interface.
func (b *browser) byIndex(index int) *ear {
	for _, e := range b.ears {
		if e.nic.index == index && e.trouble == "" {
			return e
		}
	}
	return nil
}

// heard takes a packet in.
func (b *browser) heard(now time.Time, p packet) {
	e := b.byIndex(p.index)
	switch {
	case e == nil:
		return // of an interface that was not chosen: its group was joined by somebody else
	case p.pulse:
		e.pulse = now
		return
	}
	if !p.multicast && !e.nic.onLink(p.src.Addr()) {
		b.metrics.drop("off-link", 1)
		return
	}
	m, err := decode(p.data)
	if err != nil {
		b.metrics.drop("malformed", 1)
		return
	}
	b.metrics.hear(m.response)
	if !m.response {
		return
	}
	if p.src.Port() != port { // RFC 6762 section 6
		b.metrics.drop("port", 1)
		return
	}
	if !e.nic.own(p.src.Addr()) {
		e.company(now)
		for i := range m.records {
			m.records[i].foreign = true
		}
	}
	e.hear(now, m)
	b.gather(now, e)
}

// step does what is due and returns why the registry does not count as read, or nil. send puts
// a packet on a link.
func (b *browser) step(now time.Time, send func(*ear, []byte) error) error {
	if !b.stepped.IsZero() && now.Sub(b.stepped) > silence {
		// The process stood still. What should have been renewed meanwhile was not.
		b.deafen(now)
	}
	b.stepped = now
	err := b.judge(now)
	usable := slices.ContainsFunc(b.list(), func(e *ear) bool { return e.deaf == "" })
	for _, e := range b.list() {
		// What cannot be renewed must not age, unless the interface is gone for good while others
		// are heard: then nobody but a person could ever end it.
		if e.deaf != "" && (!e.absent || len(b.names) > 0 || !usable) {
			continue
		}
		b.metrics.removed(e.age(now))
		if e.deaf == "" {
			packets, n, perr := e.ask(now)
			b.metrics.asked(n)
			for _, p := range packets {
				if serr := send(e, p); serr != nil {
					perr = serr
				}
			}
			err = cmp.Or(err, perr)
		}
		e.pending = nil
		b.gather(now, e)
		e.again = e.again && !e.settled(now)
	}
	b.forget()
	b.publish(now)
	return err
}

// judge decides which links are heard.
func (b *browser) judge(now time.Time) error {
	if len(b.ears) == 0 {
		return errors.New("mdns: no interface to listen on: none is up, can multicast and has an address")
	}
	var troubles []string
	for _, e := range b.list() {
		was := e.deaf
		e.deaf = e.trouble
		if e.deaf == "" && now.Sub(latest(e.pulse, e.tried)) > silence {
			e.deaf = fmt.Sprintf("does not bring back what is sent to %s: a packet filter may drop UDP port %d", group4, port)
		}
		switch {
		case e.deaf != "":
			troubles = append(troubles, fmt.Sprintf("interface %s %s", e.name, e.deaf))
		case was != "":
			e.relisten(now)
			e.again = b.published
		case e.lonely && now.Sub(e.since) > listenFor:
			troubles = append(troubles, fmt.Sprintf("interface %s is back, but nobody is heard on it yet", e.name))
		}
	}
	if len(troubles) == 0 {
		return nil
	}
	return fmt.Errorf("mdns: %s", strings.Join(troubles, "; "))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// list gives the ears in the order of their names.
func (b *browser) list() []*ear {
	all := make([]*ear, 0, len(b.ears))
	for _, e := range b.ears {
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y *ear) int { return cmp.Compare(x.name, y.name) })
	return all
}

// holds says whether what was published is what is on the links, as far as anybody can tell.
func (b *browser) holds() bool {
	if !b.published {
		return false
	}
	for _, e := range b.ears {
		if e.deaf != "" || e.again {
			return false
		}
	}
	return len(b.ears) > 0
}

// wake gives the time when there is something to do next.
func (b *browser) wake() (next time.Time) {
	for _, e := range b.ears {
		if e.deaf == "" {
			next = sooner(next, e.wake())
		}
	}
	return next
}

// identity names the links that are listened to.
func (b *browser) identity() string {
	var nics []nic
	for _, e := range b.ears {
		nics = append(nics, e.nic)
	}
	return identity(nics)
}

// gather moves what became of a link's instances into the slots.
func (b *browser) gather(now time.Time, e *ear) {
	for _, ch := range e.settle(now) {
		if key, ok := e.placed[ch.name]; ok && (ch.cand == nil || ch.cand.key != key) {
			b.unsay(key, e, ch)
			delete(e.placed, ch.name)
		}
		if ch.cand != nil {
			e.placed[ch.name] = ch.cand.key
			b.say(ch.cand, e, ch.name)
		}
	}
	if e.drops.full > 0 {
		e.fullAt = now
		b.metrics.drop("full", e.drops.full)
	}
	b.metrics.drop("echo", e.drops.echo)
	e.drops = drops{}
}

func (b *browser) say(c *candidate, e *ear, name string) {
	s := b.slots[c.key]
	if s == nil {
		s = &slot{}
		b.slots[c.key] = s
	}
	b.dirty[c.key] = struct{}{}
	s.explicit = false
	for i := range s.words {
		if s.words[i].ear == e && s.words[i].name == name {
			s.words[i].cand = c
			return
		}
	}
	s.words = append(s.words, word{e, name, c})
}

func (b *browser) unsay(key slotKey, e *ear, ch change) {
	s := b.slots[key]
	b.dirty[key] = struct{}{}
	s.words = slices.DeleteFunc(s.words, func(w word) bool {
		if w.ear == e && w.name == ch.name {
			return true
		}
		// Who takes it back on one link means all of them: what stands of the same announcement on
		// a link that cannot be heard would stand for ever.
		return ch.explicit && w.name == ch.name && w.ear.deaf != ""
	})
	for _, other := range b.ears {
		if other != e && ch.explicit && other.deaf != "" && other.placed[ch.name] == key {
			delete(other.placed, ch.name)
		}
	}
	s.explicit = ch.explicit && len(s.words) == 0
}

// best gives the word that is believed: one that can be used, on a link that is heard, in
// Farcall's own convention, which says more than Dapr's.
func (s *slot) best() *candidate {
	var best *word
	score := func(w *word) int {
		n := 0
		for i, yes := range []bool{w.cand.own, w.ear.deaf == "", w.cand.usage != nil} {
			if yes {
				n += 1 << i
			}
		}
		return n
	}
	for i := range s.words {
		w := &s.words[i]
		if best == nil || cmp.Or(cmp.Compare(score(w), score(best)), cmp.Compare(best.ear.name, w.ear.name), cmp.Compare(best.name, w.name)) > 0 {
			best = w
		}
	}
	if best == nil {
		return nil
	}
	return best.cand
}

// publish tells the sink what is new.
func (b *browser) publish(now time.Time) {
	if !b.published {
		for _, e := range b.ears {
			if e.deaf != "" || e.pulse.IsZero() || !e.settled(now) {
				return
			}
		}
		if len(b.ears) == 0 {
			return
		}
	}
	var plain, taken []catalog.Snapshot
	for key := range b.dirty {
		s := b.slots[key]
		best := s.best()
		if best == nil {
			delete(b.slots, key)
		}
		if best.equal(s.shown) {
			continue
		}
		s.shown = best
		if snap := snapshot(key, best); best == nil && s.explicit {
			taken = append(taken, snap)
		} else {
			plain = append(plain, snap)
		}
	}
	b.dirty = emptied(b.dirty)
	plain = append(plain, b.full(now)...)
	b.metrics.hold(b)
	switch {
	case !b.published:
		b.published = true
		b.out.Publish(catalog.Update{Full: true, Snapshots: plain})
		return
	case len(taken) > 0:
		b.out.Publish(catalog.Update{Explicit: true, Snapshots: taken})
	}
	if len(plain) > 0 {
		b.out.Publish(catalog.Update{Snapshots: plain})
	}
}

func snapshot(key slotKey, c *candidate) catalog.Snapshot {
	snap := catalog.Snapshot{Source: key.app + "/" + key.label}
	switch {
	case c == nil:
	case c.usage != nil:
		snap.Services = []catalog.Name{c.usage.Name}
		snap.Instances = []*catalog.Instance{c.usage}
	default:
		snap.SetAside = []catalog.SetAside{c.aside}
	}
	return snap
}

// full says, as a record that was set aside, that there was no room for records.
func (b *browser) full(now time.Time) []catalog.Snapshot {
	var links []string
	for _, e := range b.list() {
		if !e.fullAt.IsZero() && now.Sub(e.fullAt) < fullFor {
			links = append(links, e.name)
		}
	}
	if len(links) > 0 == b.fullShown {
		return nil
	}
	b.fullShown = len(links) > 0
	snap := catalog.Snapshot{Source: "full"} // the others have a slash
	if b.fullShown {
		snap.SetAside = []catalog.SetAside{{
			Record: "interface " + strings.Join(links, ", "),
			Reason: fmt.Sprintf("more than %d records, %d types, or %d records of one name: new ones are dropped", mostRecords, mostTypes, mostSiblings),
		}}
	}
	return []catalog.Snapshot{snap}
}
