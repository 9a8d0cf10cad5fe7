// Package daemon turns a valid configuration into a running synchronizer or agent: it opens
// listeners and data directories, makes the resolvers of the configured kinds, and hands all of
// it to the rooms. cmd/synchronizer, cmd/agent and `farcall demo` share it.
//
// It is the one place that knows every kind of registry. It runs no goroutines of its own.
package daemon

import (
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
	"github.com/farcall/farcall/resolvers/file"
	"github.com/farcall/farcall/resolvers/intake"
)

// registries makes resolvers; one serves a whole process.
type registries struct {
	log    *slog.Logger
	consul *consul.Metrics
}

func newRegistries(log *slog.Logger, r prometheus.Registerer) *registries {
	return &registries{log: log, consul: consul.NewMetrics(r)}
}

// intake makes the reader of one cluster's registries. A second registry of a kind is named
// kind-2, a third kind-3: the names stand in every instance and status.
func (r *registries) intake(cluster string, list []config.Resolver, g config.Guard) (intake.Config, error) {
	cfg := intake.Config{Cluster: cluster, Guard: guard.Config{Hold: g.Hold}}
	seen := map[string]int{}
	for _, c := range list {
		name := c.Kind()
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s-%d", name, seen[name])
		}
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

// resolver makes one resolver; name is what metrics call it. A new kind of registry is a folder, a case here and a key in
// internal/config.
func (r *registries) resolver(c config.Resolver, name string) (resolvers.Resolver, error) {
	switch {
	case c.Consul != nil:
		return consul.New(consulConfig(c.Consul), consul.Deps{Log: r.log, Metrics: r.consul, Registry: name})
	case c.File != nil:
		return file.New(file.Config{Path: c.File.Path}, file.Deps{Log: r.log})
	}
	return nil, fmt.Errorf("a resolver of no kind")
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
