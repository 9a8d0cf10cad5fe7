package mdns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// speech is what a voice has to say. Its methods are called by the voice's goroutine.
type speech interface {
	// take has the links say what changed since it was last called; it is called about every second,
	// and whenever the voice is told that something did.
	take(now time.Time, links map[string]*spoken)
	// tell has a link say everything that there is to say.
	tell(now time.Time, l *spoken)
	// report logs the conflicts that the links met, and shows how everything stands on them.
	report(links map[string]*spoken)
}

// spoken is a link that is announced on.
type spoken struct {
	*responder
	nic nic
	// trouble is why nothing can be said; empty while the link is in use.
	trouble string
	// at is the address that an Announcer gives on the link, invalid: none; round is which of its
	// lists the link has.
	at    netip.Addr
	round int
}

// voice is one Run of a Registrar or an Announcer: where is spoken, and how. It belongs to Run's
// goroutine.
type voice struct {
	interfaces []string // Config.Interfaces
	// having, where valid, limits a voice without interfaces to those that have this address.
	having  netip.Addr
	log     *slog.Logger
	metrics *metrics
	name    string
	speech  speech
	changed <-chan struct{} // there is something to take
	links   map[string]*spoken
	told    string // the troubles that were logged last
}

// run speaks until ctx is done, through every failure of the network.
func (v *voice) run(ctx context.Context) error {
	defer v.speech.report(nil)
	for ctx.Err() == nil {
		if err := v.speak(ctx); ctx.Err() == nil {
			v.complain(err.Error())
			pause(ctx, lookEvery)
		}
	}
	return ctx.Err()
}

// speak announces until the sockets fail, and returns why, or until ctx is done, when it takes
// everything back.
func (v *voice) speak(ctx context.Context) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.close()
	for _, l := range v.links {
		l.trouble = "was not listened to"
	}
	var x examiner
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for looked, again := 0, true; ; again = false {
		select {
		case <-ctx.Done():
			v.farewell(s)
			return ctx.Err()
		case err := <-s.failed:
			return err
		case p := <-s.in:
			v.hear(p)
		case <-v.changed:
			v.speech.take(time.Now(), v.links)
		case <-look.C:
			again = true
		case <-due.C:
		}
		if again {
			nics, err := x.examine(looked%addressEvery == 0)
			if err != nil {
				return err
			}
			v.look(s, nics)
			looked++
		}
		now := time.Now()
		var next time.Time
		for _, l := range v.links {
			if l.trouble != "" {
				continue
			}
			v.send(s, l, l.step(now))
			next = sooner(next, l.wake())
		}
		v.speech.report(v.links)
		if !next.IsZero() {
			due.Reset(max(time.Until(next), 0))
		}
	}
}

// wants says whether an interface is to be spoken on, and whether it was chosen.
func (v *voice) wants(n nic) (wanted, chosen bool) {
	switch {
	case len(v.interfaces) > 0:
		chosen = slices.Contains(v.interfaces, n.name)
		return chosen, chosen
	case v.having.IsValid():
		return n.own(v.having), n.own(v.having)
	}
	return true, false
}

// look takes the interfaces as they are now.
func (v *voice) look(s *station, nics []nic) {
	now := time.Now()
	var troubles []string
	there := map[string]bool{}
	for _, n := range nics {
		wanted, chosen := v.wants(n)
		if !wanted {
			continue
		}
		trouble := n.trouble(chosen)
		l := v.links[n.name]
		if l == nil {
			if trouble != "" && !chosen {
				continue
			}
			l = &spoken{responder: newResponder(), trouble: "is new"}
			v.links[n.name] = l
		}
		there[n.name] = true
		if trouble = v.use(now, s, l, n, trouble); trouble != "" {
			troubles = append(troubles, fmt.Sprintf("interface %s %s", n.name, trouble))
		}
	}
	for _, name := range v.interfaces {
		if !there[name] {
			troubles = append(troubles, fmt.Sprintf("interface %s does not exist", name))
		}
	}
	for name, l := range v.links {
		if !there[name] {
			s.leave(l.nic)
			delete(v.links, name)
		}
	}
	if len(v.links) == 0 && len(troubles) == 0 {
		troubles = []string{"no interface is up, can multicast and has an address"}
		if v.having.IsValid() {
			troubles = []string{fmt.Sprintf("no interface has the address %s", v.having)}
		}
	}
	v.speech.take(now, v.links)
	v.complain(strings.Join(troubles, "; "))
}

// use takes an interface as it is now, and gives why nothing can be said on it.
func (v *voice) use(now time.Time, s *station, l *spoken, n nic, trouble string) string {
	if l.nic.index != n.index && l.trouble == "" {
		l.trouble = "was replaced"
	}
	if l.nic.index != n.index || trouble != "" {
		s.leave(l.nic)
	}
	l.nic = n
	if trouble == "" {
		if err := s.join(n); err != nil {
			trouble = fmt.Sprintf("could not be joined to %s: %v", group4, err)
		}
	}
	if trouble == "" && l.trouble != "" {
		l.restart(now)
		v.speech.tell(now, l)
	}
	l.trouble = trouble
	return trouble
}

// complain logs troubles when they begin and when they end.
func (v *voice) complain(troubles string) {
	if troubles == v.told {
		return
	}
	v.told = troubles
	if troubles == "" {
		v.log.Info("applications are announced", "registry", v.name)
		return
	}
	v.log.Warn("applications cannot be announced everywhere: trying on", "registry", v.name, "error", troubles)
}

// hear takes a packet in.
func (v *voice) hear(p packet) {
	if p.pulse {
		return
	}
	for _, l := range v.links {
		if l.nic.index != p.index || l.trouble != "" {
			continue
		}
		near := l.nic.onLink(p.src.Addr())
		if !p.multicast && !near {
			v.metrics.drop("off-link", 1)
			return
		}
		m, err := decode(p.data)
		if err != nil {
			v.metrics.drop("malformed", 1)
			return
		}
		v.metrics.hear(m.response)
		// What asks from another port is answered alone, and so only on the link; what answers from
		// another port is nobody (RFC 6762 sections 6 and 11).
		if p.src.Port() != port && (m.response || !near) {
			v.metrics.drop("port", 1)
			return
		}
		l.hear(time.Now(), p.src, m)
		return
	}
}

func (v *voice) send(s *station, l *spoken, list []outgoing) {
	for _, o := range list {
		b, err := pack(&o.packet)
		if err == nil {
			if o.to.IsValid() {
				err = s.tell(l.nic.index, o.to, b)
			} else {
				err = s.say(l.nic.index, b)
			}
		}
		if err != nil {
			v.log.Debug("an announcement was not sent", "registry", v.name, "interface", l.nic.name, "error", err)
			continue
		}
		v.metrics.send(o.packet.Response)
	}
}

// farewell takes everything back, twice, as a packet may be lost.
func (v *voice) farewell(s *station) {
	for i := range 2 {
		if i > 0 {
			t := time.NewTimer(probeEvery)
			<-t.C // bounded, and the last thing that is done
		}
		for _, l := range v.links {
			if l.trouble != "" {
				continue
			}
			for key := range l.standings {
				if i == 0 {
					l.leave(time.Now(), key)
				}
			}
			v.send(s, l, l.step(time.Now()))
		}
	}
}
