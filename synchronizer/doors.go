package synchronizer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/identity"
)

// door is one of the services on the gRPC listener: what it is called in metrics, and who may call it.
type door struct {
	name string
	may  []identity.Role
}

// doorsOf are the services that anybody may call who has an identity. Agents share the listener with
// the admin API and cannot call it: what lies on every node must not change what holds for all.
// What is not here is refused.
var doorsOf = map[string]door{
	feedv1.Feed_ServiceDesc.ServiceName:                        {"feed", []identity.Role{identity.Agent}},
	adminv1.Admin_ServiceDesc.ServiceName:                      {"admin", []identity.Role{identity.User, identity.Synchronizer}},
	healthv1.Health_ServiceDesc.ServiceName:                    {"health", []identity.Role{identity.User, identity.Synchronizer, identity.Agent}},
	reflectionv1.ServerReflection_ServiceDesc.ServiceName:      {"reflection", []identity.Role{identity.User}},
	reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName: {"reflection", []identity.Role{identity.User}},
}

// doors are the options of a server that knows its callers; none where this replica has no identity.
func (s *Synchronizer) doors() []grpc.ServerOption {
	if s.identity == nil {
		return nil
	}
	return []grpc.ServerOption{
		grpc.Creds(s.identity.ServerCredentials(identity.Any(identity.Agent, identity.Synchronizer, identity.User))),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := s.enter(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := s.enter(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return handler(srv, stream)
		}),
	}
}

// enter says why the caller may not call a method, /service/method, or nil.
func (s *Synchronizer) enter(ctx context.Context, method string) error {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, ok := doorsOf[service]
	if !ok {
		d.name = "unknown"
	}
	id, known := identity.FromContext(ctx)
	switch {
	case !known:
		return s.identity.Refuse(ctx, d.name, status.Errorf(codes.Unauthenticated, "nobody knows who calls %s", service))
	case slices.Contains(d.may, id.Role):
		return nil
	}
	why := fmt.Sprintf("%s may not call %s", id, service)
	if len(d.may) > 0 {
		words := make([]string, len(d.may))
		for i, r := range d.may {
			words[i] = string(r) + "s"
		}
		why += ": that is for " + strings.Join(words, " and ")
	}
	return s.identity.Refuse(ctx, d.name, status.Error(codes.PermissionDenied, why))
}

// speaker checks a cluster and a node, and that who speaks for them on this stream is their agent, where
// agents prove who they are.
func (f *feed) speaker(ctx context.Context, cluster, node string) error {
	if err := checkNode(cluster, node); err != nil || f.s.identity == nil {
		return err
	}
	if id, _ := identity.FromContext(ctx); id.Role != identity.Agent || id.Cluster != cluster || id.Name != node {
		return f.s.identity.Refuse(ctx, "feed", status.Errorf(codes.PermissionDenied, "%s cannot speak for node %q of cluster %q", id, node, cluster))
	}
	return nil
}
