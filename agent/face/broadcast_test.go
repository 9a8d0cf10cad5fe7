package face

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
)

// fanOut is a broadcast to one application in each of some clusters.
func fanOut(parts ...relay.ClusterChoice) *plan {
	p := &plan{strategy: relay.Broadcast, clusters: parts}
	for _, c := range parts {
		if c.Choice != nil {
			c.Choice.(*choice).plan = p
		}
	}
	return p
}

func part(cluster string, targets ...relay.Target) relay.ClusterChoice {
	return relay.ClusterChoice{Cluster: cluster, Choice: &choice{left: targets}}
}

func decode(t *testing.T, a answer) []broadcastItem {
	t.Helper()
	var items []broadcastItem
	if err := json.Unmarshal([]byte(a.body), &items); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	return items
}

func TestBroadcast(t *testing.T) {
	binary := "\xff\x00"
	east := newPeerAgent(t, "east", "east-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Own", "1")
		w.Header().Set("Content-Type", "text/mine")
		echo(w, r)
	}))
	west := newPeerAgent(t, "west", "west-1", application(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, binary) }))
	broken := newPeerAgent(t, "west", "west-500", application(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		_, _ = io.WriteString(w, "oops")
	}))
	drained := newPeerAgent(t, "west", "west-0", application(t, echo))
	drained.peer.BeginDrain()

	t.Run("all succeed", func(t *testing.T) {
		// The failed attempt in west is followed by another in west.
		a := newCallerAgent(t, fanOut(part("east", east.local()), part("west", drained.target(), west.target())))
		got := call(t, "POST", a.url+"/m", struct{ io.Reader }{strings.NewReader("hi")}, "dapr-app-id", "cart")
		want(t, got, 207, "")
		wantHeader(t, got.Header, "Content-Type", "application/json", "farcall-strategy", "broadcast", "farcall-attempts", "3", "farcall-served-by", "")
		items := decode(t, got)
		if len(items) != 2 {
			t.Fatalf("got %s", got.body)
		}
		e, w := items[0], items[1]
		if e.Cluster != "east" || e.Instance != "east-1" || e.Status != 200 || *e.Body != "hi" || e.Error != "" ||
			strings.Join(e.Headers["X-Own"], "") != "1" || strings.Join(e.Headers["Content-Type"], "") != "text/mine" {
			t.Errorf("got %s", got.body)
		}
		if w.Cluster != "west" || w.Instance != "west-1" || w.Body != nil || string(w.BodyBase64) != binary || !strings.Contains(got.body, base64.StdEncoding.EncodeToString([]byte(binary))) {
			t.Errorf("got %s", got.body)
		}
	})

	t.Run("some fail", func(t *testing.T) {
		p := fanOut(part("east", east.local()), relay.ClusterChoice{Cluster: "north", Unreachable: true},
			part("south", nobody(t, "s")), part("west", broken.target(), west.target()))
		a := newCallerAgent(t, p)
		got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
		want(t, got, 502, "")
		items := decode(t, got)
		if items[0].Error != "" || items[1].Error != "UNREACHABLE" || !strings.HasPrefix(items[2].Error, "NO_CONNECTION: ") ||
			items[3].Status != 500 || *items[3].Body != "oops" || items[3].Error != "the application answered 500" {
			t.Errorf("got %s", got.body)
		}
	})

	t.Run("enough succeed", func(t *testing.T) {
		// A success is what counts, and a failure is told all the same.
		p := fanOut(part("west", broken.target()), part("east", east.target()), relay.ClusterChoice{Cluster: "north", Unreachable: true})
		for minSuccess, status := range map[int]int{1: 207, 2: 502, 4: 502, 0: 502} {
			p.terms.MinSuccess = minSuccess
			p.clusters[0].Choice.(*choice).left = []relay.Target{broken.target()}
			p.clusters[1].Choice.(*choice).left = []relay.Target{east.target()}
			got := call(t, "POST", newCallerAgent(t, p).url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
			want(t, got, status, "")
			items := decode(t, got)
			if len(items) != 3 || items[0].Error != "the application answered 500" || items[1].Error != "" || items[2].Error != "UNREACHABLE" {
				t.Errorf("minSuccess %d: got %s", minSuccess, got.body)
			}
		}
	})

	t.Run("nobody left", func(t *testing.T) {
		a := newCallerAgent(t, fanOut())
		want(t, call(t, "POST", a.url+"/m", nil, "dapr-app-id", "cart"), 503, "NO_INSTANCE")
	})

	t.Run("body too large", func(t *testing.T) {
		a := newCallerAgent(t, fanOut(part("east", east.local())))
		for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", relay.MaxBroadcastBody+1)), io.LimitReader(zeros{}, relay.MaxBroadcastBody+1)} {
			want(t, call(t, "POST", a.url+"/m", body, "dapr-app-id", "cart"), 413, "TOO_LARGE")
		}
	})

	t.Run("in parallel, within the deadline", func(t *testing.T) {
		slow := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body); <-r.Context().Done() }
		a := newCallerAgent(t, fanOut(
			part("a", newPeerAgent(t, "a", "a-1", application(t, slow)).target()),
			part("b", newPeerAgent(t, "b", "b-1", application(t, slow)).target()),
			part("east", east.local())))
		began := time.Now()
		got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart", "farcall-timeout", "200ms")
		want(t, got, 502, "")
		if d := time.Since(began); d > 30*time.Second {
			t.Errorf("took %v", d)
		}
		items := decode(t, got)
		if !strings.HasPrefix(items[0].Error, "DEADLINE_EXCEEDED") || !strings.HasPrefix(items[1].Error, "DEADLINE_EXCEEDED") || items[2].Status != 200 {
			t.Errorf("got %s", got.body)
		}
	})

	t.Run("over gRPC", func(t *testing.T) {
		a := newCallerAgent(t, fanOut(part("east", east.local()), part("west", west.target())))
		got := invokeService(t, a, "cart", "hi", commonv1.HTTPExtension_POST)
		if got.err != nil || string(got.GetData().GetValue()) != "hi" || got.first("farcall-served-by") != "east/east-1" ||
			got.first("farcall-broadcast") != "east/east-1=OK|west/west-1=OK" || got.first("farcall-strategy") != "broadcast" {
			t.Errorf("got %v, %v", got.err, got.header)
		}
		a = newCallerAgent(t, fanOut(part("east", east.local()), part("west", broken.target()), part("south", nobody(t, "s"))))
		got = invokeService(t, a, "cart", "hi", commonv1.HTTPExtension_POST)
		if status.Code(got.err) != codes.Internal || !strings.Contains(got.err.Error(), "west") || !strings.Contains(got.err.Error(), "south") ||
			got.first("farcall-broadcast") != "east/east-1=OK|west/west-500=500|south=NO_CONNECTION" {
			t.Errorf("got %v, %v", got.err, got.header)
		}
		// The first success in the order of the clusters, where enough succeeded.
		p := fanOut(part("west", broken.target()), relay.ClusterChoice{Cluster: "north", Unreachable: true}, part("east", east.target()), part("south", west.target()))
		p.terms.MinSuccess = 2
		got = invokeService(t, newCallerAgent(t, p), "cart", "hi", commonv1.HTTPExtension_POST)
		if got.err != nil || string(got.GetData().GetValue()) != "hi" || got.first("farcall-served-by") != "east/east-1" || got.first("x-own") != "1" ||
			got.first("farcall-broadcast") != "west/west-500=500|north=UNREACHABLE|east/east-1=OK|south/west-1=OK" {
			t.Errorf("got %v, %v", got.err, got.header)
		}
		a = newCallerAgent(t, fanOut(part("south", nobody(t, "s")), relay.ClusterChoice{Cluster: "north", Unreachable: true}))
		if got = invokeService(t, a, "cart", "hi", commonv1.HTTPExtension_POST); status.Code(got.err) != codes.Unavailable {
			t.Errorf("where nobody executed anything: got %v", got.err)
		}
	})
}
