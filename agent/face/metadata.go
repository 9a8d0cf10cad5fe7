package face

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
)

// metadataPath is that of Dapr's metadata API over HTTP.
const metadataPath = "/v1.0/metadata"

// Attributes are what the node's applications note about themselves by Dapr's metadata API, and what
// the agent says of itself beside them. They are in memory only. They are safe for concurrent use.
type Attributes struct {
	own map[string]string // the agent's; immutable

	mu    sync.Mutex
	noted map[invoke.Identity]map[string]string
	count int
}

// What applications may note: as many as this in all, each as long as this in bytes.
const (
	maxAttributes = 1024
	maxAttribute  = 4 << 10
)

// NewAttributes makes them, with nothing noted yet.
func NewAttributes(c Config) *Attributes {
	return &Attributes{
		own:   map[string]string{"farcall": c.Version, "farcall-cluster": c.Cluster, "farcall-node": c.Node},
		noted: map[invoke.Identity]map[string]string{},
	}
}

// of gives what is known of a caller.
func (a *Attributes) of(w *who) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := maps.Clone(a.noted[w.Identity])
	if out == nil {
		out = make(map[string]string, len(a.own))
	}
	maps.Copy(out, a.own)
	return out
}

// note notes something about a caller.
func (a *Attributes) note(w *who, key, value string) *invoke.Error {
	switch {
	case key == "":
		return invoke.Invalid("an attribute needs a key")
	case !utf8.ValidString(key) || !utf8.ValidString(value):
		return invoke.Invalid("an attribute's key and value are UTF-8")
	case len(key) > maxAttribute || len(value) > maxAttribute:
		return invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "an attribute's key and value have %d bytes each at most", maxAttribute)
	case strings.HasPrefix(key, "farcall"):
		return invoke.Invalid("attributes that begin with farcall are the agent's")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.noted[w.Identity]
	if _, known := have[key]; !known {
		if a.count == maxAttributes {
			return invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "the applications of this node have noted %d attributes, which is all that there is room for", maxAttributes)
		}
		a.count++
	}
	if have == nil {
		have = map[string]string{}
		a.noted[w.Identity] = have
	}
	have[key] = value
	return nil
}

// metadata says what the agent is, and for whom it takes the caller. The keys are Dapr's, but for
// namespace, cluster, node and apps; the lists of what an agent has not are there, empty.
func (h *HTTP) metadata(w http.ResponseWriter, r *http.Request) {
	from, e := h.identify(r)
	if e != nil {
		writeError(w, relay.Answer{Tier: -1, Err: e})
		return
	}
	none := []string{}
	writeJSON(w, http.StatusOK, map[string]any{
		"id":             from.AppID,
		"namespace":      from.Namespace,
		"runtimeVersion": h.config.Version,
		"cluster":        h.config.Cluster,
		"node":           h.config.Node,
		"apps":           h.appIDs(),
		"extended":       h.attributes.of(from),
		"components":     none,
		"subscriptions":  none,
		"httpEndpoints":  none,
		"actors":         none,
		"actorRuntime":   map[string]any{"runtimeStatus": "DISABLED", "hostReady": false},
	})
}

// setMetadata notes an attribute of the caller.
func (h *HTTP) setMetadata(w http.ResponseWriter, r *http.Request, key string) {
	from, e := h.identify(r)
	if e == nil {
		var value []byte
		var err error
		if value, err = io.ReadAll(io.LimitReader(r.Body, maxAttribute+1)); err != nil {
			e = invoke.BodyError(r.Context(), err)
		} else {
			e = h.attributes.note(from, key, string(value))
		}
	}
	if e != nil {
		writeError(w, relay.Answer{Tier: -1, Err: e})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// GetMetadata says what the agent is, and for whom it takes the caller.
func (g *GRPC) GetMetadata(ctx context.Context, _ *runtimev1.GetMetadataRequest) (*runtimev1.GetMetadataResponse, error) {
	from, e := g.identifyGRPC(ctx)
	if e != nil {
		return nil, e.GRPCStatus().Err()
	}
	out := &runtimev1.GetMetadataResponse{Id: from.AppID, ExtendedMetadata: g.attributes.of(from)}
	out.RuntimeVersion = out.GetExtendedMetadata()["farcall"]
	return out, nil
}

// SetMetadata notes an attribute of the caller.
func (g *GRPC) SetMetadata(ctx context.Context, in *runtimev1.SetMetadataRequest) (*emptypb.Empty, error) {
	from, e := g.identifyGRPC(ctx)
	if e == nil {
		e = g.attributes.note(from, in.GetKey(), in.GetValue())
	}
	if e != nil {
		return nil, e.GRPCStatus().Err()
	}
	return &emptypb.Empty{}, nil
}
