package synchronizer

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
)

// maxStreams bounds the streams of one connection. An agent has a handful; gRPC's own bound is none.
const maxStreams = 1000

// grpcServer puts the feed, the admin API, health and reflection on one server. ctx is the
// life of the synchronizer: streams end with it.
func (s *Synchronizer) grpcServer(ctx context.Context) *grpc.Server {
	srv := grpc.NewServer(append(s.doors(),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxHeaderListSize(64<<10),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5*time.Second),
	)...)
	feedv1.RegisterFeedServer(srv, &feed{s: s, stopping: ctx})
	adminv1.RegisterAdminServer(srv, &admin{s: s, stopping: ctx})
	healthv1.RegisterHealthServer(srv, s.health)
	reflection.Register(srv)
	return srv
}

// checkEvery is how often grpc.health looks whether the store answers.
const checkEvery = time.Second

// watchHealth keeps grpc.health at the same word as /readyz: serving while the store answers.
func (s *Synchronizer) watchHealth(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		word := healthv1.HealthCheckResponse_NOT_SERVING
		if s.ready(ctx) == nil {
			word = healthv1.HealthCheckResponse_SERVING
		}
		for _, name := range []string{"", adminv1.Admin_ServiceDesc.ServiceName, feedv1.Feed_ServiceDesc.ServiceName} {
			s.health.SetServingStatus(name, word)
		}
		select {
		case <-ctx.Done():
			s.health.Shutdown()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// ready says why the store does not answer now, or nil.
func (s *Synchronizer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return s.store.Check(ctx)
}

// httpHandler serves /metrics, /healthz (the process lives) and /readyz (the store answers,
// whatever the registries do).
func (s *Synchronizer) httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(r.Context()); err != nil {
			writeText(w, http.StatusServiceUnavailable, "store: "+err.Error()+"\n")
			return
		}
		if err := s.store.Writable(); err != nil {
			writeText(w, http.StatusOK, "degraded: nothing can be written to the store: "+err.Error()+"\n")
			return
		}
		writeText(w, http.StatusOK, "ok\n")
	})
	return mux
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	// A client that went away is no concern of ours.
	_, _ = w.Write([]byte(text))
}
