package synchronizer

import (
	"net"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/store"
)

// routeWithin is how long a name server may take to say where an endpoint of the store is: a
// synchronizer starts without one.
const routeWithin = time.Second

// peer is another replica of this federation.
type peer struct{ id, address string }

// peers gives the other replicas whose heartbeat is in the store, in the order of their ids. A
// replica that died is there until its lease ends. Where it began anew since, it is at its address
// twice, or at this replica's own: each is asked once, and this one never asks itself, for what they
// answer is added up.
func (s *Synchronizer) peers() []peer {
	var out []peer
	seen := map[string]bool{s.address: true}
	for _, r := range s.mirror.Replicas() {
		if r.ID != s.cfg.ReplicaID && !seen[r.Address] {
			seen[r.Address] = true
			out = append(out, peer{r.ID, r.Address})
		}
	}
	return out
}

// call asks one thing of a replica over a connection of its own: it happens when people ask. No
// proxy: replicas are dialled directly, whatever the environment says.
func (s *Synchronizer) call(p peer, f func(adminv1.AdminClient) error) error {
	secure := insecure.NewCredentials()
	if s.identity != nil {
		secure = s.identity.ClientCredentials(identity.Any(identity.Synchronizer))
	}
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(secure), grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(adminv1.NewAdminClient(conn))
}

// advertised is where other replicas reach this one: where it listens, or, where that is every
// address, by the address that this machine uses towards the store. Nothing is sent to find out:
// connecting a UDP socket only chooses the route. Where there is none, or no name server that knows
// the store answers soon, it is what is listened on.
func advertised(listening net.Addr, cfg store.Config) string {
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil || cfg.Etcd == nil {
		return listening.String() // an embedded store has no other replicas
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listening.String()
	}
	route := net.Dialer{Timeout: routeWithin}
	for _, endpoint := range cfg.Etcd.Endpoints {
		if _, rest, ok := strings.Cut(endpoint, "://"); ok {
			endpoint = rest
		}
		c, err := route.Dial("udp", endpoint)
		if err != nil {
			continue
		}
		host, _, err = net.SplitHostPort(c.LocalAddr().String())
		_ = c.Close() // nothing was sent
		if err == nil {
			return net.JoinHostPort(host, port)
		}
	}
	return listening.String()
}

// noAgentReason is the reason of a replica's answer that it has no agent to ask.
const noAgentReason = "NO_AGENT"

// noAgent is what a replica answers to another that has no agent to ask, or none that answers.
func noAgent(why string) error {
	st := status.New(codes.Unavailable, why)
	if d, err := st.WithDetails(&errdetails.ErrorInfo{Reason: noAgentReason, Domain: "farcall.io"}); err == nil {
		st = d
	}
	return st.Err()
}

func isNoAgent(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetReason() == noAgentReason {
			return true
		}
	}
	return false
}
