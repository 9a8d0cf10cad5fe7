package face

import (
	"context"
	"net/http"
	"strconv"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/wire"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
)

// broadcastItem is one target in the answer to a broadcast (strategies.md "broadcast").
type broadcastItem struct {
	Cluster    string              `json:"cluster"`
	Instance   string              `json:"instance,omitempty"`
	Status     int                 `json:"status,omitempty"`
	Headers    map[string][]string `json:"headers,omitempty"`
	Body       *string             `json:"body,omitempty"`
	BodyBase64 []byte              `json:"bodyBase64,omitempty"`
	Error      string              `json:"error,omitempty"`
}

// broadcast makes a broadcast call and writes the list of what came of it: 207 where as many
// targets succeeded as had to, else 502.
func (h *HTTP) broadcast(ctx context.Context, w http.ResponseWriter, r *http.Request, choice relay.Choice, req *invoke.Request) (relay.Answer, error) {
	if e := readWhole(ctx, w, r, req, relay.MaxBroadcastBody); e != nil {
		a := relay.Unanswered(choice)
		a.Err = e
		writeError(w, a)
		return a, nil
	}
	replies := h.relay.Broadcast(ctx, choice, req, relay.MaxBroadcastBody, nil)
	a := replies.Answer()
	if len(replies.List) == 0 {
		writeError(w, a)
		return a, nil
	}
	items := make([]broadcastItem, len(replies.List))
	for i := range replies.List {
		items[i] = item(&replies.List[i])
	}
	describe(w.Header(), a)
	status := http.StatusBadGateway
	if a.Err == nil {
		status = http.StatusMultiStatus
		a.Response = &invoke.Response{Status: status}
	}
	writeJSON(w, status, items)
	return a, nil
}

func item(r *relay.Reply) broadcastItem {
	out := broadcastItem{Cluster: r.Cluster, Error: r.Failure()}
	if r.Tried != nil {
		out.Instance = r.Tried.Instance
	}
	if r.Err != nil {
		out.Status = r.Err.HTTPStatus()
	}
	if r.Response != nil {
		out.Status = r.Response.HTTPStatus()
		out.Headers = replyHeader(r)
		if utf8.Valid(r.Body) {
			s := string(r.Body)
			out.Body = &s
		} else {
			out.BodyBase64 = r.Body
		}
	}
	return out
}

// replyHeader gives the headers of one target's answer as an HTTP caller gets them.
func replyHeader(r *relay.Reply) http.Header {
	h := http.Header{}
	copyHeader(h, r.Response)
	if h["Content-Type"] == nil {
		delete(h, "Content-Type")
	}
	return h
}

// broadcast answers with the first success in the order of the clusters, if as many succeeded as
// had to; the header farcall-broadcast says what came of each.
func (g *GRPC) broadcast(ctx context.Context, choice relay.Choice, req *invoke.Request) (*commonv1.InvokeResponse, relay.Answer, error) {
	replies := g.relay.Broadcast(ctx, choice, req, maxReply, nil)
	a := replies.Answer()
	first, say := firstSuccess(replies)
	if err := grpc.SetHeader(ctx, metadata.MD{invoke.BroadcastKey: say}); err != nil {
		return nil, a, err
	}
	if a.Err != nil {
		return nil, a, a.Err.GRPCStatus().Err()
	}
	a.Response, a.Instance, a.Tier, a.TierName = first.Response, first.Instance, first.Tier, first.TierName
	out, err := reply(ctx, first.Response, first.Body)
	return out, a, err
}

// firstSuccess gives the first success in the order of the clusters, nil where there is none, and
// says in a word what came of each target.
func firstSuccess(replies relay.Replies) (first *relay.Reply, say []string) {
	say = make([]string, len(replies.List))
	for i := range replies.List {
		r := &replies.List[i]
		who := r.Cluster
		if r.Instance != nil {
			who += "/" + r.Instance.Instance
		}
		if r.OK() && first == nil {
			first = r
		}
		say[i] = wire.Printable(who) + "=" + result(r)
	}
	return first, say
}

// result says in a word what came of one target.
func result(r *relay.Reply) string {
	switch {
	case r.OK():
		return "OK"
	case r.Err == nil:
		return strconv.Itoa(r.Response.Status)
	default:
		return r.Err.Reason
	}
}
