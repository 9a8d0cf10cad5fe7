package mdns

import (
	"slices"
	"time"
)

// Echoes are the applications from elsewhere that an agent answers for. There may be thousands, on
// each of many hosts of a link, and so they are quiet: none is probed for, and only a few of many
// that come at once are announced.
//
// Their names need no probes of their own. Each is the agent's label and an app-id, and the label is
// unique on the link as soon as the agent's claim is, which is probed for: echoes are answered for
// while it stands.
const (
	// claimType is the service type of claims: agents that take calls of sidecars.
	claimType = "_farcall-dapr._tcp.local."

	// mostFresh is how many echoes may wait to be announced, which each is twice, a second apart
	// (RFC 6762 section 8.3). Those beyond it are only answered for, which is all that daprd needs.
	mostFresh = 100
	// Every sayEvery, echoesAtOnce of them at most are announced: two or three packets.
	sayEvery     = 100 * time.Millisecond
	echoesAtOnce = 8
)

// echoes are those of one link.
type echoes struct {
	claim *standing
	of    map[string]*offer // by echoID
	// fresh are to be announced, again a second time.
	fresh, again []turn
	next         time.Time // not before this
	// leaving are to be taken back, parting a second time.
	leaving, parting []turn
}

// turn is an echo and when it is due.
type turn struct {
	o   *offer
	due time.Time
}

// echoID tells app-ids apart as the DNS does, which knows no case.
func echoID(app string) string { return fold(escapeLabel(app)) }

// carry makes the echoes of the link exactly these, which stand with what has that key: app-ids
// that differ in their echoID.
func (r *responder) carry(now time.Time, claim string, apps []string, build func(app string) *offer) {
	e := &r.echoes
	if e.claim = r.standings[claim]; e.claim == nil {
		return
	}
	keep := map[string]struct{}{}
	for _, app := range apps {
		id := echoID(app)
		keep[id] = struct{}{}
		if old := e.of[id]; old != nil && old.txt.texts[0] == app {
			continue
		} else if old != nil {
			r.drop(now, id) // spelt otherwise
		}
		o := build(app)
		e.of[id] = o
		e.stay(o)
		r.add(e.claim, o)
		r.announceEcho(now, o)
	}
	for id := range e.of {
		if _, kept := keep[id]; !kept {
			r.drop(now, id)
		}
	}
}

// drop ends an echo, and takes it back where anybody may know of it still.
func (r *responder) drop(now time.Time, id string) {
	e := &r.echoes
	o := e.of[id]
	delete(e.of, id)
	r.remove(o)
	if !o.spoken.IsZero() && now.Sub(o.spoken) < o.pointer.ttl {
		e.leaving = append(e.leaving, turn{o, now})
	}
}

// dropAll takes all echoes back.
func (r *responder) dropAll(now time.Time) {
	for id := range r.echoes.of {
		r.drop(now, id)
	}
}

// forget ends all echoes without a word.
func (r *responder) forget() {
	for _, o := range r.echoes.of {
		r.remove(o)
	}
	r.echoes = echoes{claim: r.echoes.claim, of: map[string]*offer{}}
}

// stay takes no echo back that has the name of this one.
func (e *echoes) stay(o *offer) {
	same := func(t turn) bool { return t.o.name == o.name }
	e.leaving, e.parting = slices.DeleteFunc(e.leaving, same), slices.DeleteFunc(e.parting, same)
}

// announceEcho has an echo announced, unless too many wait for that already.
func (r *responder) announceEcho(now time.Time, o *offer) {
	e := &r.echoes
	if len(e.fresh) >= mostFresh || slices.ContainsFunc(e.fresh, func(t turn) bool { return t.o == o }) {
		return
	}
	for _, rec := range o.all() {
		delete(r.said, recordID(rec))
	}
	e.fresh = append(e.fresh, turn{o, now})
}

// repeatEchoes is for a link whose listeners may be others now.
func (r *responder) repeatEchoes(now time.Time) {
	r.echoes = echoes{claim: r.echoes.claim, of: r.echoes.of}
	for _, o := range r.echoes.of {
		o.spoken = time.Time{}
		r.announceEcho(now, o)
	}
}

// mayLeave and mayCome say whether echoes can be taken back and announced now. While their claim is
// probed for, or somebody else's, they might be another's.
func (e *echoes) mayLeave() bool {
	return e.claim != nil && (e.claim.stage == stageStanding || e.claim.stage == stageAway)
}
func (e *echoes) mayCome() bool { return e.claim != nil && e.claim.stage == stageStanding }

// stepEchoes says what is due.
func (r *responder) stepEchoes(now time.Time) {
	e := &r.echoes
	if e.mayLeave() {
		r.bye(e.leave(now))
	}
	if !e.mayCome() || now.Before(e.next) {
		return
	}
	told := map[*offer][]record{}
	for _, o := range e.come(now) {
		if e.of[echoID(o.txt.texts[0])] == o {
			told[o] = o.all()
		}
	}
	if len(told) > 0 {
		e.next = now.Add(sayEvery)
		r.sayAll(now, told)
	}
}

// leave gives the echoes that are to be taken back now.
func (e *echoes) leave(now time.Time) (gone []*offer) {
	var again []turn
	for len(e.leaving) > 0 && !e.leaving[0].due.After(now) {
		gone = append(gone, e.leaving[0].o)
		again = append(again, turn{e.leaving[0].o, now.Add(probeEvery)})
		e.leaving = e.leaving[1:]
	}
	for len(e.parting) > 0 && !e.parting[0].due.After(now) {
		gone = append(gone, e.parting[0].o)
		e.parting = e.parting[1:]
	}
	e.parting = append(e.parting, again...)
	return gone
}

// come gives the echoes that are to be announced now, a few at most.
func (e *echoes) come(now time.Time) (list []*offer) {
	for len(list) < echoesAtOnce && len(e.fresh) > 0 {
		list = append(list, e.fresh[0].o)
		e.again = append(e.again, turn{e.fresh[0].o, now.Add(repeatAfter)})
		e.fresh = e.fresh[1:]
	}
	for len(list) < echoesAtOnce && len(e.again) > 0 && !e.again[0].due.After(now) {
		list = append(list, e.again[0].o)
		e.again = e.again[1:]
	}
	return list
}

// wakeEchoes gives the time when stepEchoes has something to do.
func (r *responder) wakeEchoes() (next time.Time) {
	e := &r.echoes
	first := func(may bool, least time.Time, lists ...[]turn) {
		for _, list := range lists {
			if may && len(list) > 0 {
				due := list[0].due
				if due.Before(least) {
					due = least
				}
				next = sooner(next, due)
			}
		}
	}
	first(e.mayLeave(), time.Time{}, e.leaving, e.parting)
	first(e.mayCome(), e.next, e.fresh, e.again)
	return next
}
