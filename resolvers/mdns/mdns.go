// Package mdns reads the services that the hosts of a link announce by multicast DNS (Resolver),
// and announces a node's applications there (Registrar). It speaks two conventions of DNS-SD:
// Dapr's, where the service type is the bare app-id, and _farcall._tcp. README.md has both.
//
// There is no server to ask: the registry is the link itself. What is known of it is a cache of
// what others said, as RFC 6762 wants it kept, and it counts as read while we hear what is said
// on every link.
//
// It is not a resolver of host names, nor a browser of other services: what a printer says is
// not even kept. It maps no namespaces and judges no removal; its reader does. The DNS codec is
// github.com/miekg/dns.
//
// Goroutines: each Run starts a reader per address family, a Registrar's also one per
// application that watches its port. Each Run joins what it started.
package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/resolvers"
)

// DefaultTTL is how long an announced record that names a host is believed without being heard
// again (RFC 6762 section 10).
const DefaultTTL = 2 * time.Minute

// leastTTL still leaves time for a question at 80 % and its answer.
const leastTTL = 5 * time.Second

// Config says which links are listened to.
type Config struct {
	// Interfaces are names of network interfaces. Each of them is expected to be there: while one
	// is not, the registry counts as failed. None: all that are up, can multicast, have an address
	// that is more than link-local, and are neither loopback nor point-to-point; they are looked
	// for again every few seconds.
	Interfaces []string
	// TTL is how long listeners believe a Registrar's announcements without hearing them again;
	// default DefaultTTL. Shorter makes a crashed node vanish sooner, and every listener ask
	// oftener. A Resolver ignores it.
	TTL time.Duration
}

// Validate gives every fault of the configuration at once, or nil.
func (c Config) Validate() error {
	var errs []error
	for i, name := range c.Interfaces {
		switch {
		case name == "" || strings.ContainsAny(name, "/ \t\n"):
			errs = append(errs, fmt.Errorf("interfaces: %q is not the name of a network interface: want one as eth0", name))
		case slices.Contains(c.Interfaces[:i], name):
			errs = append(errs, fmt.Errorf("interfaces: %q stands twice", name))
		}
	}
	if c.TTL != 0 && (c.TTL < leastTTL || c.TTL > mostHostTTL) {
		errs = append(errs, fmt.Errorf("ttl %v: want %v to %v", c.TTL, leastTTL, mostHostTTL))
	}
	return errors.Join(errs...)
}

// Deps are what a Resolver or a Registrar needs from its process.
type Deps struct {
	Log *slog.Logger
	// Metrics is shared by every Resolver and Registrar of the process.
	Metrics *Metrics
	// Registry is what the metrics call this registry; one of a bounded set, as configured.
	Registry string
}

// Resolver reads what is announced on some links. It keeps nothing across Runs: each begins by
// listening to two rounds of answers.
type Resolver struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	name    string
	link    atomic.Pointer[string]
}

var _ resolvers.Resolver = (*Resolver)(nil)

// New makes a Resolver. It opens nothing.
func New(cfg Config, deps Deps) (*Resolver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("mdns: %w", err)
	}
	return &Resolver{cfg: cfg, log: deps.Log, metrics: deps.Metrics.of(deps.Registry), name: deps.Registry}, nil
}

// Link names the links that are listened to: the IPv4 subnets of the interfaces, as in
// "10.8.0.0/24", or the IPv6 prefixes of one that has no IPv4, in order and joined by commas.
// Resolvers that say the same hear the same. It is empty while nothing is known, stays while an
// interface is down, costs nothing and may be called at any time.
func (r *Resolver) Link() string {
	if s := r.link.Load(); s != nil {
		return *s
	}
	return ""
}

// Run implements resolvers.Resolver. It goes on through every failure of the network, telling
// the Sink, and returns only with ctx.
func (r *Resolver) Run(ctx context.Context, out resolvers.Sink) error {
	b := newBrowser(r.cfg.Interfaces, out, r.metrics)
	defer r.metrics.hold(nil)
	for ctx.Err() == nil {
		if err := r.listen(ctx, b); ctx.Err() == nil {
			out.Failed(err)
			b.deafen(time.Now())
			pause(ctx, lookEvery)
		}
	}
	return ctx.Err()
}

// lookEvery is how often the interfaces are looked at, a pulse is sent, and what holds is
// confirmed; every addressEvery times their addresses are read anew.
const (
	lookEvery    = time.Second
	addressEvery = 5
)

// listen listens until the sockets fail, and returns why, or until ctx is done.
func (r *Resolver) listen(ctx context.Context, b *browser) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.close()
	var x examiner
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	send := func(e *ear, p []byte) error {
		r.metrics.send(false)
		return s.say(e.nic.index, p)
	}
	for looked := 0; ; {
		confirm := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.failed:
			return err
		case p := <-s.in:
			b.heard(time.Now(), p)
		case <-look.C:
			confirm = true
		case <-due.C:
		}
		for range len(s.in) { // before anything is judged by what was not heard
			b.heard(time.Now(), <-s.in)
		}
		if confirm || looked == 0 {
			nics, err := x.examine(looked%addressEvery == 0)
			if err != nil {
				return err
			}
			r.look(b, s, nics)
			looked++
		}
		now := time.Now()
		err := b.step(now, send)
		switch {
		case !confirm:
		case err != nil:
			b.out.Failed(err)
		case b.holds():
			b.out.Confirm()
		}
		if wake := b.wake(); !wake.IsZero() {
			due.Reset(max(time.Until(wake), 0))
		}
	}
}

// look tells the browser what the interfaces look like, joins those that are new, and sends a
// pulse on each.
func (r *Resolver) look(b *browser, s *station, nics []nic) {
	b.examined(time.Now(), nics)
	for _, e := range b.ears {
		if e.trouble != "" {
			s.leave(e.nic)
			continue
		}
		if err := s.join(e.nic); err != nil {
			e.stop(fmt.Sprintf("could not be joined to %s: %v", group4, err))
			continue
		}
		if err := s.beat(e.nic.index); err != nil {
			e.stop(err.Error())
		}
	}
	if id := b.identity(); id != r.Link() {
		r.link.Store(&id)
		r.log.Info("listening", "registry", r.name, "link", id)
	}
}

// pause waits for d or for ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
