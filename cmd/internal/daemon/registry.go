// Package daemon turns a valid configuration into a running synchronizer or agent: it opens
// listeners and data directories, makes the resolvers of the configured kinds, and hands all of
// it to the rooms. cmd/synchronizer, cmd/agent and `farcall demo` share it.
//
// It is the one place that knows every kind of registry. It runs no goroutines of its own.
package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/consul"
	"github.com/farcall/farcall/resolvers/dns"
	"github.com/farcall/farcall/resolvers/file"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/resolvers/kubernetes"
	"github.com/farcall/farcall/resolvers/mdns"
)

// registries makes resolvers; one serves a whole process.
type registries struct {
	log        *slog.Logger
	consul     *consul.Metrics
	dns        *dns.Metrics
	kubernetes *kubernetes.Metrics
	mdns       *mdns.Metrics
}

func newRegistries(log *slog.Logger, r prometheus.Registerer) *registries {
	return &registries{
		log: log, consul: consul.NewMetrics(r), dns: dns.NewMetrics(r),
		kubernetes: kubernetes.NewMetrics(r), mdns: mdns.NewMetrics(r),
	}
}

// named gives each registry of a cluster its name, in their order. A second one of a kind is named
// kind-2, a third kind-3: the names stand in every instance and status.
func named(list []config.Resolver) []string {
	names := make([]string, len(list))
	seen := map[string]int{}
	for i, c := range list {
		names[i] = c.Kind()
		if seen[c.Kind()]++; seen[c.Kind()] > 1 {
			names[i] = fmt.Sprintf("%s-%d", c.Kind(), seen[c.Kind()])
		}
	}
	return names
}

// intake makes the reader of one cluster's registries.
func (r *registries) intake(cluster string, list []config.Resolver, g config.Guard) (intake.Config, error) {
	cfg := intake.Config{Cluster: cluster, Guard: guard.Config{Hold: g.Hold}}
	for i, name := range named(list) {
		c := list[i]
		res, err := r.resolver(c, cluster+"/"+name)
		if err != nil {
			return intake.Config{}, fmt.Errorf("cluster %s: %w", cluster, err)
		}
		s := c.Scope()
		cfg.Registries = append(cfg.Registries, intake.Registry{
			Name: name, Resolver: res,
			Namespace: s.Namespace, Namespaces: s.Namespaces, Include: s.Include, Exclude: s.Exclude,
		})
	}
	return cfg, nil
}

// CheckResolver says what is wrong with a block of a configuration that its registry's room alone
// can tell, or nil. It opens nothing.
func CheckResolver(c config.Resolver) error {
	switch {
	case c.Consul != nil:
		return consulConfig(c.Consul).Validate()
	case c.DNS != nil:
		return dnsConfig(c.DNS).Validate()
	case c.Kubernetes != nil:
		return kubernetesConfig(c.Kubernetes).Validate()
	case c.MDNS != nil:
		return mdnsConfig(c.MDNS).Validate()
	}
	return nil
}

// resolver makes one resolver; name is what metrics call it. A new kind of registry is a folder,
// a case here and in CheckResolver, and a key in internal/config.
func (r *registries) resolver(c config.Resolver, name string) (resolvers.Resolver, error) {
	if err := CheckResolver(c); err != nil {
		return nil, err
	}
	switch {
	case c.Consul != nil:
		return &made{make: func() (resolvers.Resolver, error) {
			return consul.New(consulConfig(c.Consul), consul.Deps{Log: r.log, Metrics: r.consul, Registry: name})
		}}, nil
	case c.DNS != nil:
		return dns.New(dnsConfig(c.DNS), dns.Deps{Log: r.log, Metrics: r.dns, Registry: name})
	case c.Kubernetes != nil:
		return &made{make: func() (resolvers.Resolver, error) {
			return kubernetes.New(kubernetesConfig(c.Kubernetes), kubernetes.Deps{Log: r.log, Metrics: r.kubernetes, Registry: name})
		}}, nil
	case c.MDNS != nil:
		return mdns.New(mdnsConfig(c.MDNS), mdns.Deps{Log: r.log, Metrics: r.mdns, Registry: name})
	case c.File != nil:
		return file.New(file.Config{Path: c.File.Path}, file.Deps{Log: r.log})
	}
	return nil, fmt.Errorf("a resolver of no kind")
}

// made is a resolver that is made when it is first run, for those that are made of files: one that
// is missing or broken fails this registry, until it is mended, and not the daemon.
type made struct {
	make func() (resolvers.Resolver, error)
	it   resolvers.Resolver
}

var _ resolvers.Resolver = (*made)(nil)

// Run runs the resolver, or says why it cannot be made.
func (m *made) Run(ctx context.Context, out resolvers.Sink) error {
	if m.it == nil {
		it, err := m.make()
		if err != nil {
			return err
		}
		m.it = it
	}
	return m.it.Run(ctx, out)
}

func mdnsConfig(c *config.MDNS) mdns.Config {
	return mdns.Config{Interfaces: c.Interfaces, TTL: c.TTL}
}

func consulConfig(c *config.Consul) consul.Config {
	cfg := consul.Config{
		Address: c.Address, Datacenter: c.Datacenter,
		Token: c.Token.Value(), TokenFile: c.TokenFile, PortKey: c.DaprPortKey,
		// Never nil, which would mean the resolver's own default.
		Exclude: append([]string{}, c.Exclude...),
	}
	if c.TLS != nil {
		cfg.TLS = &consul.TLS{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key}
	}
	return cfg
}

func dnsConfig(c *config.DNS) dns.Config {
	cfg := dns.Config{Servers: c.Servers, Timeout: c.Timeout, MinTTL: c.MinTTL, MaxTTL: c.MaxTTL, Services: map[string]dns.Service{}}
	for key, s := range c.Services {
		cfg.Services[key] = dns.Service{Name: s.Name, Type: s.Type, SRVPort: s.SRVPort, Port: s.Port, RelayPort: s.RelayPort, Family: s.Family}
	}
	return cfg
}

func kubernetesConfig(c *config.Kubernetes) kubernetes.Config {
	return kubernetes.Config{
		Kubeconfig: c.Kubeconfig, Context: c.Context, WatchNamespaces: c.WatchNamespaces,
		ExportSelector: c.ExportSelector, ExportNamespaces: c.ExportNamespaces, Regions: c.Regions,
	}
}

// linkOf gives how the links of an agent's registry are called (ADR 7): what agents of a cluster
// that is read via its agents have in common. Only of mDNS it can change while the agent runs.
func linkOf(name string, c config.Resolver, res resolvers.Resolver, node string) func() string {
	if word := c.Scope().Link; word != "" {
		return func() string { return name + "@" + word }
	}
	if m, ok := res.(*mdns.Resolver); ok {
		return func() string {
			if link := m.Link(); link != "" {
				return name + "@" + link
			}
			return ""
		}
	}
	if c.File != nil {
		return func() string { return name + "@" + node }
	}
	return func() string { return name }
}

// clientTLS reads the files of a TLS client, nil where none is configured.
func clientTLS(t *config.TLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no PEM certificate", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// newRegistry returns a process's metrics registry with the runtime's own in it.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
