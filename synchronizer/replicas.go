package synchronizer

import (
	"cmp"
	"net"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/store"
)

// peer is another replica of this federation.
type peer struct{ id, address string }

// peers gives the other replicas whose heartbeat is in the store, in the order of their ids. A
// replica that died is there until its lease ends.
func (h *hub) peers(self string) []peer {
	schema := h.watchdog.schema
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []peer
	for key, e := range h.entries {
		if !strings.HasPrefix(key, schema.Replicas()) {
			continue
		}
		var v storev1.Replica
		k, err := schema.Parse(key)
		if err != nil || keys.Decode(e.GetValue(), &v) != nil || v.GetId() != k.Replica || v.GetId() == self {
			continue // what cannot be believed names nobody
		}
		if catalog.CheckHostPort(v.GetAddress()) == nil {
			out = append(out, peer{v.GetId(), v.GetAddress()})
		}
	}
	slices.SortFunc(out, func(a, b peer) int { return cmp.Compare(a.id, b.id) })
	return out
}

// call asks one thing of a replica over a connection of its own: it happens when people ask.
func (p peer) call(f func(adminv1.AdminClient) error) error {
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig())
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(adminv1.NewAdminClient(conn))
}

// advertised is where other replicas reach this one: where it listens, or, where that is every
// address, by the address that this machine uses towards the store. Nothing is sent to find out:
// connecting a UDP socket only chooses the route. Where there is none, it is what is listened on.
func advertised(listening net.Addr, cfg store.Config) string {
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil || cfg.Etcd == nil {
		return listening.String() // an embedded store has no other replicas
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listening.String()
	}
	for _, endpoint := range cfg.Etcd.Endpoints {
		if _, rest, ok := strings.Cut(endpoint, "://"); ok {
			endpoint = rest
		}
		c, err := net.Dial("udp", endpoint)
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
