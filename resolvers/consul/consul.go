// Package consul reads a Consul catalogue (Resolver) and puts a node's applications into one
// (Registrar).
//
// The Resolver watches three tables with one blocking query each and then reads the services
// that changed, one by one. What Consul tells no watcher, namely which service a change of the
// catalogue was in, it finds by reading all services again at a bounded rate. README.md says
// which index moves on what.
//
// It is not a client library and holds no policy: a service's full list goes out as the
// registry has it, unhealthy instances included. It does not map namespaces, and it judges no
// removal; both are its reader's part.
//
// Goroutines: Resolver.Run starts three watchers and a prober, and at most 16 readers for each
// batch of reads; Registrar.Run starts one per application. Each Run joins what it started.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/resolvers"
)

// DefaultPortKey is the metadata key under which daprd keeps its internal gRPC port.
const DefaultPortKey = "DAPR_PORT"

// NamespaceKey is the metadata key by which a registration names its Farcall namespace.
const NamespaceKey = "farcall-namespace"

// Config says which Consul and how it is reached. The process's CONSUL_HTTP_* variables are
// not read: what is not said here does not hold.
type Config struct {
	// Address is host:port of an agent or a server, with or without http:// or https:// before
	// it; 127.0.0.1:8500 when empty.
	Address string
	// Datacenter is whose catalogue is read; the agent's own when empty. A Registrar ignores it,
	// as registrations are the agent's own.
	Datacenter string
	// Token is the ACL token; TokenFile names a file that holds one, read again for every query,
	// so that a rotated token is taken up by itself. At most one of them.
	Token     string
	TokenFile string
	// TLS, where given, makes the connection HTTPS.
	TLS *TLS
	// PortKey is the metadata key of the relay's port; DefaultPortKey when empty.
	PortKey string
	// Exclude are patterns (path.Match) of the names of services that are not even read;
	// DefaultExclude when nil.
	Exclude []string
}

// DefaultExclude are Consul itself, and the proxies that stand beside a service in its mesh.
func DefaultExclude() []string { return []string{"consul", "*-sidecar-proxy"} }

// TLS names PEM files, read when the Resolver is made.
type TLS struct {
	CA         string // trusts these authorities instead of the system's
	Cert       string // with Key: what to present to Consul
	Key        string
	ServerName string // expected in Consul's certificate, where it is not the address's host
}

// Validate gives every fault of the configuration at once, or nil. It touches no file.
func (c Config) Validate() error {
	var errs []error
	if _, _, err := c.endpoint(); err != nil {
		errs = append(errs, err)
	}
	if c.Token != "" && c.TokenFile != "" {
		errs = append(errs, errors.New("token and tokenFile are both set: keep one"))
	}
	for _, p := range c.Exclude {
		if _, err := path.Match(p, ""); err != nil {
			errs = append(errs, fmt.Errorf("exclude: pattern %q: %w", p, err))
		}
	}
	if c.TLS != nil {
		if (c.TLS.Cert == "") != (c.TLS.Key == "") {
			errs = append(errs, errors.New("tls: cert and key go together: one is missing"))
		}
		if strings.HasPrefix(c.Address, "http://") {
			errs = append(errs, fmt.Errorf("address %q is plain HTTP, but tls is set: write https:// or leave the scheme out", c.Address))
		}
	}
	return errors.Join(errs...)
}

// endpoint gives the scheme and host:port.
func (c Config) endpoint() (scheme, host string, err error) {
	scheme, host = "http", c.Address
	if host == "" {
		host = "127.0.0.1:8500"
	}
	if c.TLS != nil {
		scheme = "https"
	}
	if strings.Contains(host, "://") {
		u, err := url.Parse(host)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return "", "", fmt.Errorf("address %q: want host:port, http://host:port or https://host:port", c.Address)
		}
		scheme, host = u.Scheme, u.Host
	}
	if h, p, err := net.SplitHostPort(host); err != nil || h == "" || p == "" {
		return "", "", fmt.Errorf("address %q: want host:port, as in 127.0.0.1:8500", c.Address)
	}
	return scheme, host, nil
}

// excludes reports whether services of this name are not read.
func (c Config) excludes(name string) bool {
	patterns := c.Exclude
	if patterns == nil {
		patterns = DefaultExclude()
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil // Validate refused those that are none
	})
}

func (c Config) portKey() string {
	if c.PortKey == "" {
		return DefaultPortKey
	}
	return c.PortKey
}

// Deps are what a Resolver or a Registrar needs from its process.
type Deps struct {
	Log *slog.Logger
	// Metrics is shared by every Consul of the process.
	Metrics *Metrics
	// Registry is what the metrics call this Consul; one of a bounded set, as configured.
	Registry string
}

// Resolver reads one Consul. It keeps no list across Runs, but remembers which Consul it read
// and up to which index, so that a wiped or exchanged one is told even after a pause.
type Resolver struct {
	client  *client
	log     *slog.Logger
	metrics *Metrics
	name    string
	cfg     Config

	// All below is Run's alone.

	// seen is what was last known of the registry's identity.
	seen seen
	// reset says why the registry looks like another one; it waits here for the next Full.
	reset string
}

var _ resolvers.Resolver = (*Resolver)(nil)

// New makes a Resolver. It reads the TLS files and nothing else.
func New(cfg Config, deps Deps) (*Resolver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	c, err := newClient(cfg, deps)
	if err != nil {
		return nil, err
	}
	return &Resolver{client: c, log: deps.Log, metrics: deps.Metrics, name: deps.Registry, cfg: cfg}, nil
}

// Run implements resolvers.Resolver. It goes on through every failure of Consul, telling the
// Sink, and returns only with ctx.
func (r *Resolver) Run(ctx context.Context, out resolvers.Sink) error {
	defer r.client.close()
	var wait backoff
	for ctx.Err() == nil {
		led, err := r.full(ctx, out)
		if err != nil {
			if ctx.Err() == nil {
				out.Failed(err)
				pause(ctx, wait.next())
			}
			continue
		}
		wait = backoff{}
		if err := r.follow(ctx, out, led); err != nil && ctx.Err() == nil {
			out.Failed(err)
		}
		// Whatever ended the following, Consul is not to be asked for everything in a tight loop.
		pause(ctx, wait.next())
	}
	return ctx.Err()
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
