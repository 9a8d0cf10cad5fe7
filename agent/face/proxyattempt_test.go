package face

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// refusing is the peer of an instance that listens to some messages of a call, and then says that
// it was certainly not executed. first, where not nil, is done before.
func refusing(t *testing.T, instance string, messages int, first func(grpc.ServerStream)) relay.Target {
	t.Helper()
	return strange(t, instance, func(s grpc.ServerStream) error {
		if first != nil {
			first(s)
		}
		for range messages {
			if err := s.RecvMsg(new(wordMsg)); err != nil {
				return err
			}
		}
		s.SetTrailer(metadata.Pairs(invoke.NotDispatchedKey, "the application has gone"))
		return status.Error(codes.Unavailable, "the application has gone")
	})
}

// strange is a peer that does with every call what do does.
func strange(t *testing.T, instance string, do func(grpc.ServerStream) error) relay.Target {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return do(s) }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return relay.Target{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "west", Name: catalog.Name{Namespace: "shop", Service: "cart"}, Instance: instance}},
		Dial:     l.Addr().String(), Tier: 1, TierName: "west",
	}
}

// TestProxyElsewhere makes calls whose first instances certainly do not execute them: they go to the
// next one, with all that their caller has said by then and all that it says later.
func TestProxyElsewhere(t *testing.T) {
	good := plain()
	target := newPeerAgent(t, "west", "good", talk(t, good)).target()
	drained := newPeerAgent(t, "west", "drained", talk(t, plain()))
	drained.peer.BeginDrain()
	down := newPeerAgent(t, "west", "down", endpoint(t, testkit.Nobody(t), app.GRPC))
	away := newPeerAgent(t, "west", "away", talk(t, plain())).target()
	away.Instance = nobody(t, "elsewhere").Instance
	for _, c := range []struct {
		what    string
		first   []relay.Target
		outcome string
	}{
		{"nobody there", []relay.Target{nobody(t, "a")}, "a not_executed, good served"},
		{"draining", []relay.Target{drained.target()}, "drained draining, good served"},
		{"the application is down", []relay.Target{down.target()}, "down refused, good served"},
		{"the own application is down", []relay.Target{down.local()}, "down refused, good served"},
		{"another instance's peer", []relay.Target{away}, "elsewhere refused, good served"},
		{"refused at once", []relay.Target{refusing(t, "r", 0, nil)}, "r refused, good served"},
		{"refused after a message", []relay.Target{refusing(t, "r", 1, nil)}, "r refused, good served"},
		{"refused after two messages", []relay.Target{refusing(t, "r", 2, nil)}, "r refused, good served"},
		{"refused twice", []relay.Target{refusing(t, "r", 1, nil), refusing(t, "s", 2, nil)}, "r refused, s refused, good served"},
	} {
		t.Run(c.what, func(t *testing.T) {
			pl := &plan{targets: append(c.first, target)}
			w := &way{cc: newCallerAgent(t, pl).conn, plan: pl}
			before := good.count()
			s := w.many(t, w.ctx(t))
			send(t, s, "a", "b")
			hear(t, s, "a", "b")
			send(t, s, "c")
			hear(t, s, "c")
			_ = s.CloseSend()
			wantCode(t, end(t, s), codes.OK)
			if n := s.Trailer().Get("x-messages"); n[0] != "3" {
				t.Errorf("it heard %s messages", n)
			}
			if got := pl.said(); got != c.outcome {
				t.Errorf("the router was told %q, want %q", got, c.outcome)
			}
			if n := good.count() - before; n != 1 {
				t.Errorf("executed %d times", n)
			}
		})
	}
	t.Run("one message", func(t *testing.T) {
		pl := &plan{targets: []relay.Target{nobody(t, "a"), refusing(t, "r", 1, nil), target}}
		w := &way{cc: newCallerAgent(t, pl).conn, plan: pl}
		out, word := new(wordMsg), strings.Repeat("x", 60<<10)
		if err := w.cc.Invoke(w.ctx(t), sayOne, said(word), out); err != nil || string(out.GetValue()) != word {
			t.Errorf("%d bytes, %v", len(out.GetValue()), err)
		}
	})
	t.Run("what came between the attempts is not lost", func(t *testing.T) {
		// More than is kept comes while the first instance has not decided yet.
		goOn := make(chan struct{})
		pl := &plan{targets: []relay.Target{refusing(t, "r", 0, func(grpc.ServerStream) { <-goOn }), target}}
		w := &way{cc: newCallerAgent(t, pl).conn, plan: pl}
		s := w.many(t, w.ctx(t))
		word := strings.Repeat("x", 1<<10)
		for range 50 {
			send(t, s, word)
		}
		close(goOn)
		for range 50 {
			hear(t, s, word)
		}
		_ = s.CloseSend()
		wantCode(t, end(t, s), codes.OK)
	})
}

// TestProxyNotElsewhere makes calls that are not sent again, although their instance says that it did
// not execute them: since the answer began, or since more was said than is kept.
func TestProxyNotElsewhere(t *testing.T) {
	good := plain()
	target := newPeerAgent(t, "west", "good", talk(t, good)).target()
	header := func(s grpc.ServerStream) { _ = s.SendHeader(nil) }
	message := func(s grpc.ServerStream) { _ = s.SendMsg(said("a")) }
	for _, c := range []struct {
		what  string
		first relay.Target
		word  string
	}{
		{"after the header", refusing(t, "r", 1, header), "a"},
		{"after an answer", refusing(t, "r", 1, message), "a"},
		{"more than is kept", refusing(t, "r", 2, nil), strings.Repeat("x", 40<<10)},
	} {
		t.Run(c.what, func(t *testing.T) {
			pl := &plan{targets: []relay.Target{c.first, target}}
			w := &way{cc: newCallerAgent(t, pl).conn, plan: pl}
			s := w.many(t, w.ctx(t))
			send(t, s, c.word)
			_ = s.SendMsg(said(c.word))
			var err error
			for err == nil {
				err = s.RecvMsg(new(wordMsg))
			}
			wantStatus(t, err, codes.Unavailable, "the application has gone")
			if got := pl.said(); got != "r refused" || good.count() != 0 {
				t.Errorf("the router was told %q, and the other instance called %d times", got, good.count())
			}
		})
	}
}

// blocks is an application that lets a call stand, after a message where it is told so, until it
// ends.
func blocks(arrived *atomic.Int64) *talker {
	return &talker{stream: func(s grpc.ServerStream) error {
		if err := s.RecvMsg(new(wordMsg)); err != nil {
			return err
		}
		md, _ := metadata.FromIncomingContext(s.Context())
		if len(md["x-begin"]) > 0 {
			if err := s.SendMsg(said("begun")); err != nil {
				return err
			}
		}
		arrived.Add(1)
		<-s.Context().Done()
		return s.Context().Err()
	}}
}

// TestProxyLost kills whoever a call is with while it is under way: it may have been executed, which
// is said so, and it is not made again.
func TestProxyLost(t *testing.T) {
	for _, c := range []struct {
		what string
		kill func(w *way, a *talker)
		ways []string
	}{
		{"application", func(_ *way, a *talker) { a.server.Stop() }, []string{"own", "relayed", "sidecar", "peer"}},
		{"peer", func(w *way, _ *talker) { w.peer.peer.server.Stop() }, []string{"relayed", "sidecar"}},
	} {
		for _, name := range c.ways {
			for _, begin := range []bool{false, true} {
				t.Run(fmt.Sprint(c.what, " ", name, " begun ", begin), func(t *testing.T) {
					var arrived atomic.Int64
					a := blocks(&arrived)
					w := newWay(t, name, a)
					other := plain()
					if w.plan != nil {
						w.plan.targets = append(w.plan.targets, newPeerAgent(t, "west", "other", talk(t, other)).target())
					}
					ctx := w.ctx(t)
					if begin {
						ctx = metadata.AppendToOutgoingContext(ctx, "x-begin", "1")
					}
					s := w.many(t, ctx)
					send(t, s, "x")
					if begin {
						hear(t, s, "begun")
					}
					testkit.Eventually(t, testkit.Context(t), "the call arrives", func() error {
						if arrived.Load() == 0 {
							return errors.New("not yet")
						}
						return nil
					})
					c.kill(w, a)
					err := end(t, s)
					if status.Code(err) != codes.Internal || ourReason(err) != invoke.ReasonOutcomeUnknown {
						t.Errorf("got %v", err)
					}
					if a.count() != 1 || other.count() != 0 {
						t.Errorf("executed %d times, and %d times elsewhere", a.count(), other.count())
					}
					if w.plan != nil {
						w.heard(t, "cart-1 lost")
					}
				})
			}
		}
	}
}

// An application that listens again is called again, at once.
func TestProxyAppComesBack(t *testing.T) {
	for _, name := range []string{"own", "relayed"} {
		t.Run(name, func(t *testing.T) {
			l := listen(t)
			first := plain()
			p := newPeerAgent(t, "west", "cart-1", talkAt(t, l, first))
			pl := &plan{targets: []relay.Target{p.target()}}
			if name == "own" {
				pl.targets = []relay.Target{p.local()}
			}
			w := &way{cc: newCallerAgent(t, pl).conn}
			if err := w.cc.Invoke(w.ctx(t), sayOne, said("x"), new(wordMsg)); err != nil {
				t.Fatal(err)
			}
			first.server.Stop()
			testkit.Eventually(t, testkit.Context(t), "it is down", func() error {
				if err := w.cc.Invoke(w.ctx(t), sayOne, said("x"), new(wordMsg)); ourReason(err) != invoke.ReasonAppDown {
					return fmt.Errorf("got %v", err)
				}
				return nil
			})
			again, err := net.Listen("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			talkAt(t, again, plain())
			if err := w.cc.Invoke(w.ctx(t), sayOne, said("x"), new(wordMsg)); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// A daprd is a peer, too: it routes by dapr-app-id up to 1.17, and by dapr-callee-app-id from then on,
// and knows nothing of what agents say to each other. What it says is the application's word.
func TestProxyToSidecar(t *testing.T) {
	var seen atomic.Pointer[metadata.MD]
	target := strange(t, "cart-1", func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		seen.Store(&md)
		switch first(md["x-do"]) {
		case "fail":
			return status.Error(codes.Unavailable, "as the application says")
		case "middle":
			_ = s.SendMsg(said("a"))
			return status.Error(codes.NotFound, "as the application says")
		}
		return echoStream(s)
	})
	pl := &plan{targets: []relay.Target{target, nobody(t, "x")}}
	w := &way{cc: newCallerAgent(t, pl).conn, plan: pl}
	out := new(wordMsg)
	if err := w.cc.Invoke(w.ctx(t), sayOne, said("x"), out); err != nil || string(out.GetValue()) != "x" {
		t.Errorf("%q %v", out.GetValue(), err)
	}
	wantMD(t, *seen.Load(), "dapr-app-id", "cart", "dapr-callee-app-id", "cart", "dapr-caller-app-id", "web")
	wantStatus(t, w.cc.Invoke(w.ctx(t, "x-do", "fail"), sayOne, said("x"), out), codes.Unavailable, "as the application says")
	wantStatus(t, w.cc.Invoke(w.ctx(t, "x-do", "middle"), sayOne, said("x"), out), codes.NotFound, "as the application says")
	w.heard(t, "cart-1 served, cart-1 served_error, cart-1 served")
}

func first(v []string) string { return append(v, "")[0] }
