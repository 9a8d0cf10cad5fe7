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
	p := &presence{Registrar: r, apps: apps, last: make([]appState, len(apps)), changed: make(chan struct{}, 1)}
	var watching sync.WaitGroup
	defer watching.Wait()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	for i, a := range apps {
		watching.Go(func() { watchApp(watch, i, a, p.saw) })
	}
	v := &voice{
		interfaces: r.cfg.Interfaces, log: r.log, metrics: r.metrics, name: r.name,
		speech: p, changed: p.changed, links: map[string]*spoken{},
	}
	return v.run(ctx)
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
func watchApp(ctx context.Context, index int, a resolvers.Registration, saw func(appState)) {
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
		saw(s)
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

// presence is one Run of a Registrar: what is known of its applications.
type presence struct {
	*Registrar
	apps []resolvers.Registration
	last []appState // as the links were told; the voice's

	changed chan struct{}
	mu      sync.Mutex
	seen    []appState // since take was last called
}

var _ speech = (*presence)(nil)

// saw notes what was seen of an application.
func (p *presence) saw(st appState) {
	p.mu.Lock()
	p.seen = append(p.seen, st)
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default: // it is told already that there is something
	}
}

// take implements speech.
func (p *presence) take(now time.Time, links map[string]*spoken) {
	p.mu.Lock()
	seen := p.seen
	p.seen = nil
	p.mu.Unlock()
	for _, st := range seen {
		old := p.last[st.app]
		if st.err != nil && old.err == nil {
			p.log.Warn("an application is not announced anew", "registry", p.name, "service", p.apps[st.app].Name.String(), "error", st.err)
		}
		p.last[st.app] = st
		if st.up == old.up && slices.Equal(st.addrs, old.addrs) {
			continue
		}
		for _, l := range links {
			p.tellOf(now, l, st)
		}
	}
}

// tell implements speech.
func (p *presence) tell(now time.Time, l *spoken) {
	for i, st := range p.last {
		st.app = i
		p.tellOf(now, l, st)
	}
}

// tellOf makes a link announce an application, or take it back.
func (p *presence) tellOf(now time.Time, l *spoken, st appState) {
	a := p.apps[st.app]
	addrs := l.nic.reachable(st.addrs)
	if st.up && len(addrs) > 0 {
		l.stand(now, a.ID, offers(a, addrs, p.cfg.TTL))
		return
	}
	l.leave(now, a.ID)
	if st.up && len(st.addrs) > 0 {
		p.log.Warn("an application is not announced: its address is a loopback", "registry", p.name, "interface", l.nic.name,
			"service", a.Name.String(), "instance", a.ID, "hint", "set internal.advertise to an address of the link")
	}
}

// report implements speech.
func (p *presence) report(links map[string]*spoken) {
	var n [stageConflict + 1]float64
	for _, l := range links {
		if l.trouble != "" {
			continue
		}
		known := 0
		for _, s := range l.standings {
			n[s.stage]++
			known++
		}
		n[stageAway] += float64(len(p.apps) - known)
		for _, id := range l.contested {
			i := slices.IndexFunc(p.apps, func(a resolvers.Registration) bool { return a.ID == id })
			p.log.Warn("another host announces the same name: ours is not announced", "registry", p.name,
				"interface", l.nic.name, "service", p.apps[i].Name.String(), "instance", id, "retry", conflictFor,
				"hint", "two nodes of one name on one link? give each its own node name")
		}
		l.contested = nil
	}
	p.metrics.away.Set(n[stageAway])
	p.metrics.probing.Set(n[stageProbing])
	p.metrics.announced.Set(n[stageStanding])
	p.metrics.conflict.Set(n[stageConflict])
}
