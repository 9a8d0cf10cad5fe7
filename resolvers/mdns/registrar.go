package mdns

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/farcall/farcall/resolvers"
)

const (
	// tryEvery is how often an application's port is tried.
	tryEvery = time.Second
	dialTime = 500 * time.Millisecond
	// lookUpEvery is how often the name of a host is looked up again, where an application's
	// address is one.
	lookUpEvery = 30 * time.Second
)

// Registrar announces a node's applications on the links, each while its port accepts
// connections, and takes them back with a goodbye. When the process dies, listeners drop its
// records after their TTL.
type Registrar struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	name    string
}

var _ resolvers.Registrar = (*Registrar)(nil)

// NewRegistrar makes a Registrar. It opens nothing.
func NewRegistrar(cfg Config, deps Deps) (*Registrar, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("mdns: %w", err)
	}
	cfg.TTL = cmp.Or(cfg.TTL, DefaultTTL)
	return &Registrar{cfg: cfg, log: deps.Log, metrics: deps.Metrics.of(deps.Registry), name: deps.Registry}, nil
}

// Run implements resolvers.Registrar. It goes on through every failure of the network and
// returns only with ctx, or at once where the registrations contradict each other.
func (r *Registrar) Run(ctx context.Context, apps []resolvers.Registration) error {
	if err := check(apps); err != nil {
		return err
	}
	states := make(chan appState)
	var watching sync.WaitGroup
	defer watching.Wait()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	for i, a := range apps {
		watching.Go(func() { watchApp(watch, i, a, states) })
	}
	v := &voice{Registrar: r, apps: apps, last: make([]appState, len(apps)), links: map[string]*spoken{}}
	defer v.silence()
	for ctx.Err() == nil {
		if err := v.speak(ctx, states); ctx.Err() == nil {
			v.complain(err.Error())
			pause(ctx, lookEvery)
		}
	}
	return ctx.Err()
}

// check says which registrations cannot be announced together.
func check(apps []resolvers.Registration) error {
	labels := map[string]string{}
	for _, a := range apps {
		if a.ID == "" || a.Name.Service == "" || a.Address == "" || a.Port < 1 || a.Port > 65535 || a.RelayPort < 0 || a.RelayPort > 65535 {
			return fmt.Errorf("mdns: announce %q as %q at %q, port %d, relay port %d: a name, an id, an address and a port are needed",
				a.Name.Service, a.ID, a.Address, a.Port, a.RelayPort)
		}
		if !txtFits(a) {
			return fmt.Errorf("mdns: announce %q as %q: name, namespace, node and id have room for 250 bytes each", a.Name.Service, a.ID)
		}
		label := fold(labelFor(a.ID))
		if other, twice := labels[label]; twice {
			return fmt.Errorf("mdns: announce %q and %q: both have the label %q", other, a.ID, label)
		}
		labels[label] = a.ID
	}
	return nil
}

// txtFits says whether every string of the TXT has room in the byte that gives its length.
func txtFits(a resolvers.Registration) bool {
	for _, s := range []string{a.Name.Service, a.Name.Namespace, a.Node, a.ID} {
		if len(s) > 250 {
			return false
		}
	}
	return true
}

// appState is how an application was seen last.
type appState struct {
	app   int
	up    bool
	addrs []netip.Addr // where it is announced; none: its host's name is not known
	err   error        // why there are none
}

// watchApp says about every second whether an application's port accepts connections, and at
// what addresses it is.
func watchApp(ctx context.Context, index int, a resolvers.Registration, states chan<- appState) {
	var addrs []netip.Addr
	var looked time.Time
	for ctx.Err() == nil {
		s := appState{app: index, up: accepts(ctx, a.Address, a.Port)}
		if len(addrs) == 0 || time.Since(looked) > lookUpEvery {
			found, err := addresses(ctx, a.Address)
			if err == nil {
				addrs, looked = found, time.Now()
			}
			s.err = err
		}
		s.addrs = addrs
		select {
		case states <- s:
		case <-ctx.Done():
		}
		pause(ctx, tryEvery)
	}
}

// addresses gives those of a host, in order.
func addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("mdns: look up %s: %w", host, err)
	}
	for i := range found {
		found[i] = found[i].Unmap().WithZone("")
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return slices.Compact(found), nil
}

// accepts reports whether a port takes a connection.
func accepts(ctx context.Context, host string, port int) bool {
	d := net.Dialer{Timeout: dialTime}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	// It was only asked whether it opens: closing it cannot fail in a way that matters.
	_ = conn.Close()
	return true
}

// spoken is a link that is announced on.
type spoken struct {
	*responder
	nic nic
	// trouble is why nothing can be said; empty while the link is in use.
	trouble string
}

// voice is one Run: what is to be said, and where. It belongs to Run's goroutine.
type voice struct {
	*Registrar
	apps  []resolvers.Registration
	last  []appState
	links map[string]*spoken
	told  string // the troubles that were logged last
}

// speak announces until the sockets fail, and returns why, or until ctx is done, when it takes
// everything back.
func (v *voice) speak(ctx context.Context, states <-chan appState) error {
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
		case st := <-states:
			v.see(st)
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
			v.tellConflicts(l)
		}
		v.count()
		if !next.IsZero() {
			due.Reset(max(time.Until(next), 0))
		}
	}
}

// look takes the interfaces as they are now.
func (v *voice) look(s *station, nics []nic) {
	now := time.Now()
	var troubles []string
	there := map[string]bool{}
	for _, n := range nics {
		chosen := slices.Contains(v.cfg.Interfaces, n.name)
		if len(v.cfg.Interfaces) > 0 && !chosen {
			continue
		}
		trouble := n.trouble(chosen)
		l := v.links[n.name]
		if l == nil {
			if trouble != "" && !chosen {
				continue
			}
			l = &spoken{responder: newResponder(len(v.apps)), trouble: "is new"}
			v.links[n.name] = l
		}
		there[n.name] = true
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
			for _, st := range v.last {
				v.tell(now, l, st)
			}
		}
		if l.trouble = trouble; trouble != "" {
			troubles = append(troubles, fmt.Sprintf("interface %s %s", n.name, trouble))
		}
	}
	for _, name := range v.cfg.Interfaces {
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
	}
	v.complain(strings.Join(troubles, "; "))
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

// see takes what was seen of an application.
func (v *voice) see(st appState) {
	old := v.last[st.app]
	if st.err != nil && old.err == nil {
		v.log.Warn("an application is not announced anew", "registry", v.name, "service", v.apps[st.app].Name.String(), "error", st.err)
	}
	v.last[st.app] = st
	if st.up == old.up && slices.Equal(st.addrs, old.addrs) {
		return
	}
	now := time.Now()
	for _, l := range v.links {
		v.tell(now, l, st)
	}
}

// tell makes a link announce an application, or take it back.
func (v *voice) tell(now time.Time, l *spoken, st appState) {
	a := v.apps[st.app]
	addrs := l.nic.reachable(st.addrs)
	if st.up && len(addrs) > 0 {
		l.stand(now, st.app, offers(a, addrs, v.cfg.TTL))
		return
	}
	l.leave(now, st.app)
	if st.up && len(st.addrs) > 0 {
		v.log.Warn("an application is not announced: its address is a loopback", "registry", v.name, "interface", l.nic.name,
			"service", a.Name.String(), "instance", a.ID, "hint", "set internal.advertise to an address of the link")
	}
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

func (v *voice) tellConflicts(l *spoken) {
	for _, app := range l.contested {
		a := v.apps[app]
		v.log.Warn("another host announces the same name: ours is not announced", "registry", v.name,
			"interface", l.nic.name, "service", a.Name.String(), "instance", a.ID, "retry", conflictFor,
			"hint", "two nodes of one name on one link? give each its own node name")
	}
	l.contested = nil
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
			for app := range l.apps {
				if i == 0 {
					l.leave(time.Now(), app)
				}
			}
			v.send(s, l, l.step(time.Now()))
		}
	}
}

// count shows how the applications stand.
func (v *voice) count() {
	var n [stageConflict + 1]float64
	for _, l := range v.links {
		if l.trouble == "" {
			for _, s := range l.apps {
				n[s.stage]++
			}
		}
	}
	v.metrics.away.Set(n[stageAway])
	v.metrics.probing.Set(n[stageProbing])
	v.metrics.announced.Set(n[stageStanding])
	v.metrics.conflict.Set(n[stageConflict])
}

// silence shows that nothing is announced any more.
func (v *voice) silence() {
	v.links = nil
	v.count()
}
