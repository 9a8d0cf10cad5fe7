// Package dns reads services that stand in the DNS: SRV records, or plain addresses under a name.
//
// The Resolver asks for each configured name when the TTL of its last answer has passed, within
// bounds, and for one name about every second in any case, so that freshness comes from
// questions answered. A name that does not exist, one without records, a refusal and silence are
// four different things; only the first two are ever taken for an absence. README.md has the rules.
//
// It is not a DNS server, nor a cache for anybody else; it follows no delegations (a recursive
// server does) and validates no signatures. It holds no policy and judges no removal: guard does.
//
// Goroutines: Run starts one for each read of a service, at most 64 at a time, and each of these
// at most 16 to find the addresses of its targets; no more than 16 questions are on the wire at a
// time. Run joins them all.
package dns

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/farcall/farcall/resolvers"
)

// Deps are what a Resolver needs from its process.
type Deps struct {
	Log *slog.Logger
	// Metrics is shared by every DNS registry of the process.
	Metrics *Metrics
	// Registry is what the metrics call this one; one of a bounded set, as configured.
	Registry string
}

// Resolver reads some names of the DNS. Across Runs it remembers nothing but its configuration.
type Resolver struct {
	cfg      Config
	services []service // in the order of their keys
	// servers are the configured ones; none: those of resolvConf.
	servers    []string
	resolvConf string
	log        *slog.Logger
	metrics    registryMetrics
}

var _ resolvers.Resolver = (*Resolver)(nil)

// New makes a Resolver. It asks nobody and reads no file.
func New(cfg Config, deps Deps) (*Resolver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	r := &Resolver{
		cfg:        cfg.withDefaults(),
		resolvConf: "/etc/resolv.conf",
		log:        deps.Log,
		metrics:    deps.Metrics.of(deps.Registry),
	}
	for _, s := range cfg.Servers {
		address, _ := serverAddress(s) // Validate refused those that are none
		if !slices.Contains(r.servers, address) {
			r.servers = append(r.servers, address)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(cfg.Services)) {
		s, _ := cfg.Services[key].compile(key) // as above
		r.services = append(r.services, s)
	}
	return r, nil
}
