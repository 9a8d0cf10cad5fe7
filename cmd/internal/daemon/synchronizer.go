package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/synchronizer"
)

// Synchronizer runs a synchronizer until ctx is done; then it returns nil.
func Synchronizer(ctx context.Context, c *config.Synchronizer, log *slog.Logger) error {
	registry := newRegistry()
	kinds := newRegistries(log, registry)
	cfg := synchronizer.Config{
		Federation: c.Federation,
		ReplicaID:  replicaID(),
		Store:      store.Config{Federation: c.Federation},
	}
	if e := c.Store.Etcd; e != nil {
		t, err := clientTLS(e.TLS)
		if err != nil {
			return fmt.Errorf("store.etcd.%w", err)
		}
		cfg.Store.Etcd = &store.EtcdConfig{Endpoints: e.Endpoints, TLS: t, DataDir: c.DataDir}
	} else {
		cfg.Store.Embedded = &store.EmbeddedConfig{DataDir: c.Store.Embedded.DataDir}
	}
	for _, cl := range c.Clusters {
		in, err := kinds.intake(cl.Name, cl.Resolvers, c.Guard)
		if err != nil {
			return err
		}
		in.Open = cl.Via == config.ViaAgents
		cfg.Clusters = append(cfg.Clusters, synchronizer.Cluster{
			Intake:    in,
			ViaAgents: cl.Via == config.ViaAgents,
			Locality:  catalog.Locality{Region: cl.Locality.Region, Zone: cl.Locality.Zone},
			Labels:    cl.Labels,
		})
	}
	var l listeners
	deps := synchronizer.Deps{
		Log: log, Registry: registry,
		GRPC: l.add("listen", "tcp", c.Listen),
	}
	deps.HTTP = l.face("http", c.HTTP, log)
	if c.TLS != nil && l.err == nil {
		deps.Identity, l.err = newIdentity(c.TLS, identity.Self{Role: identity.Synchronizer}, log, registry)
	}
	if l.err != nil {
		l.closeAll()
		return l.err
	}
	s, err := synchronizer.New(cfg, deps)
	if err != nil {
		l.closeAll()
		return err
	}
	log.Info("synchronizer starts", "federation", c.Federation, "replica", cfg.ReplicaID, "listen", deps.GRPC.Addr(), "http", deps.HTTP.Addr())
	beside, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	follow(beside, &wg, deps.Identity, l.webs)
	defer wg.Wait()
	defer stop()
	return s.Run(ctx)
}

// replicaID names this process among the replicas: for people by its host, for uniqueness by
// chance.
func replicaID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "replica"
	}
	return host + "-" + rand.Text()[:6]
}
