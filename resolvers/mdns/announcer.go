package mdns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/resolvers"
)

// Place is where an Announcer sends those who call.
type Place struct {
	// Node is the agent's, which no other agent on the link has.
	Node string
	// Address is where the agent takes calls of sidecars. Where its IP address is unspecified, each
	// link is given the address that its own interface has; of 0.0.0.0 an IPv4 one.
	Address netip.AddrPort
}

// Announcer announces applications that live elsewhere, as a daprd would that stands beside them, but
// for the address, which is this node's agent's, and for the label, by which Resolvers know an
// echo. It says them on Config.Interfaces; without any, on the interface that has the Place's
// address, or where that is unspecified on all that a Resolver would listen to.
type Announcer struct {
	cfg     Config
	place   Place
	log     *slog.Logger
	metrics *metrics
	name    string
	label   string

	announced, waiting, left prometheus.Gauge
	changed                  chan struct{}

	mu    sync.Mutex
	apps  []string // what can be announced, in order; immutable
	round int      // how often it was replaced
	out   int      // how many cannot
}

var _ resolvers.Announcer = (*Announcer)(nil)

// claim is the key of the only thing that an Announcer probes for on a link.
const claim = "claim"

// NewAnnouncer makes an Announcer. It opens nothing. A loopback address is an error, as the hosts
// that hear of it would call themselves.
func NewAnnouncer(cfg Config, place Place, deps Deps) (*Announcer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("mdns: %w", err)
	}
	place.Address = netip.AddrPortFrom(place.Address.Addr().Unmap().WithZone(""), place.Address.Port())
	switch a := place.Address.Addr(); {
	case place.Node == "":
		return nil, fmt.Errorf("mdns: announce from no node: a name is needed")
	case !a.IsValid() || place.Address.Port() == 0:
		return nil, fmt.Errorf("mdns: announce %s: an IP address and a port are needed", place.Address)
	case a.IsLoopback(), a.Is6() && a.IsLinkLocalUnicast():
		return nil, fmt.Errorf("mdns: announce %s: it means another place to each host that hears of it: want an address that the hosts of the link reach", place.Address)
	}
	states := func(state string) prometheus.Gauge {
		return deps.Metrics.external.WithLabelValues(deps.Registry, state)
	}
	return &Announcer{
		cfg: cfg, place: place, log: deps.Log, metrics: deps.Metrics.of(deps.Registry), name: deps.Registry,
		label: echoLabel(place.Node), announced: states("announced"), waiting: states("waiting"), left: states("left-out"),
		changed: make(chan struct{}, 1),
	}, nil
}

// Announce implements resolvers.Announcer. App-ids that cannot be a service type of Dapr's
// convention are left out and counted, and so are those that differ from one before them in case
// only, as the DNS knows none.
func (a *Announcer) Announce(apps []string) {
	list, out, example := make([]string, 0, len(apps)), 0, ""
	seen := make(map[string]struct{}, len(apps))
	for _, app := range slices.Compact(slices.Sorted(slices.Values(apps))) {
		id := echoID(app)
		if _, twice := seen[id]; twice || !bareable(app) {
			out, example = out+1, app
			continue
		}
		seen[id] = struct{}{}
		list = append(list, app)
	}
	a.mu.Lock()
	more := out > a.out
	if !slices.Equal(a.apps, list) {
		a.apps = list
		a.round++
	}
	a.out = out
	a.mu.Unlock()
	if more {
		a.log.Warn("applications cannot be announced: an app-id has to be one label of the DNS, in whatever case", "registry", a.name,
			"count", out, "example", example)
	}
	select {
	case a.changed <- struct{}{}:
	default: // it is told already
	}
}

// Run implements resolvers.Announcer. It goes on through every failure of the network and returns
// only with ctx.
func (a *Announcer) Run(ctx context.Context) error {
	v := &voice{
		interfaces: a.cfg.Interfaces, log: a.log, metrics: a.metrics, name: a.name,
		speech: chant{a}, changed: a.changed, links: map[string]*spoken{},
	}
	if at := a.place.Address.Addr(); !at.IsUnspecified() {
		v.having = at
	}
	return v.run(ctx)
}

// chant is what an Announcer has to say.
type chant struct{ *Announcer }

var _ speech = chant{}

// take implements speech.
func (c chant) take(now time.Time, links map[string]*spoken) {
	for _, l := range links {
		if l.trouble == "" {
			c.tell(now, l)
		}
	}
}

// tell implements speech. What was said already is not said again.
func (c chant) tell(now time.Time, l *spoken) {
	at, before := c.at(l.nic), l.at
	if l.at = at; at != before {
		l.forget() // all was at the address before
		l.round = 0
		if !at.IsValid() {
			l.leave(now, claim)
			c.log.Warn("nothing can be announced: the interface has no address that dapr.listen takes calls at", "registry", c.name,
				"interface", l.nic.name, "listen", c.place.Address)
			return
		}
		l.stand(now, claim, []*offer{c.claim(at)})
	}
	if !at.IsValid() {
		return
	}
	c.mu.Lock()
	apps, round := c.apps, c.round
	c.mu.Unlock()
	if l.round == round {
		return
	}
	l.round = round
	l.carry(now, claim, apps, func(app string) *offer { return newEcho(c.label, app, at, int(c.place.Address.Port())) })
}

// at is the agent's address for the hosts of an interface's link.
func (c chant) at(n nic) netip.Addr {
	at := c.place.Address.Addr()
	if at.IsUnspecified() {
		return n.face(at.Is4())
	}
	return at
}

// claim is what an agent that takes calls of sidecars says of itself.
func (c chant) claim(at netip.Addr) *offer {
	addrs := []netip.Addr{at}
	return newOffer(c.label, claimType, hostFor(addrs), int(c.place.Address.Port()),
		[]string{keyVersion + "=1", keyNode + "=" + cut(c.place.Node)}, addrs, DefaultTTL)
}

// cut shortens what a string of a TXT says to what it has room for.
func cut(s string) string {
	const room = 255 - len(keyNode+"=")
	return s[:min(len(s), room)]
}

// report implements speech.
func (c chant) report(links map[string]*spoken) {
	standing := false
	for _, l := range links {
		s := l.standings[claim]
		standing = standing || l.trouble == "" && s != nil && s.stage == stageStanding
		for range l.contested {
			c.log.Warn("another agent announces by the same name: this one does not", "registry", c.name, "interface", l.nic.name,
				"label", c.label, "retry", conflictFor, "hint", "two nodes of one name on one link? give each its own node name")
		}
		l.contested = nil
	}
	c.mu.Lock()
	in, out := len(c.apps), c.out
	c.mu.Unlock()
	if links == nil {
		in, out = 0, 0
	}
	said := map[bool]int{standing: in}
	c.announced.Set(float64(said[true]))
	c.waiting.Set(float64(said[false]))
	c.left.Set(float64(out))
}
