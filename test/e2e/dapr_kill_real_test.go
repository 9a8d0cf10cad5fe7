//go:build real && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// heldFor is the deadline of the calls that are under way when something dies. Who cannot tell that
// the other side is gone finds out by it only.
const heldFor = 40 * time.Second

// killing is a federation whose application is a process, which writes down what it executes.
type killing struct {
	*spliced
	app  *testkit.Daemon
	file string
	ids  int
}

func newKilling(t *testing.T) *killing {
	t.Helper()
	if err := testkit.Build(filepath.Join("..", ".."), bin, "./test/e2e/ledger"); err != nil {
		t.Fatal(err)
	}
	k := &killing{file: filepath.Join(t.TempDir(), "ledger")}
	web, sale := testkit.FreePort(t), testkit.FreePort(t)
	k.app = testkit.NewDaemon(t, filepath.Join(bin, "ledger"), "ledger", local(web).String(), local(sale).String(), k.file)
	k.app.Start()
	k.spliced = newSpliced(t, places{web: web, sale: sale})
	return k
}

// wrote counts the lines of the ledger that say it.
func (k *killing) wrote(t *testing.T, says string) (n int) {
	t.Helper()
	b, err := os.ReadFile(k.file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == says {
			n++
		}
	}
	return n
}

// drip is a body that does not end before its context does.
type drip struct {
	ctx  context.Context
	tick *time.Ticker
}

func (d drip) Read(b []byte) (int, error) {
	select {
	case <-d.tick.C:
		return copy(b, big[:8<<10]), nil
	case <-d.ctx.Done():
		return 0, io.ErrUnexpectedEOF
	}
}

// ending is how a call that was under way ended.
type ending struct {
	kind string
	daprAnswer
	err  error
	took time.Duration
}

// hold makes one call of each kind, each with an id of its own, and returns when the application
// executes them all. Their endings come through the channel.
func (k *killing) hold(s *way) (ids map[string]string, endings <-chan ending) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, heldFor)
	s.t.Cleanup(cancel)
	timeout := "farcall-timeout: " + heldFor.String()
	rpc := func(method, id string) error {
		cs, err := s.conn.NewStream(to(ctx, s.sale), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, sample+method)
		if err != nil {
			return err
		}
		if err := cs.SendMsg(wrapperspb.Bytes([]byte(id))); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		if method == "Hold" {
			if err := cs.CloseSend(); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		for err == nil {
			err = cs.RecvMsg(new(wrapperspb.BytesValue))
		}
		return err
	}
	kinds := map[string]func(id string) (daprAnswer, error){
		"POST": func(id string) (daprAnswer, error) {
			return s.get(ctx, http.MethodPost, s.url(s.web, "whole?id="+id), strings.NewReader("hello"), timeout)
		},
		"streaming body": func(id string) (daprAnswer, error) {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			body, done := context.WithCancel(ctx)
			defer done()
			return s.get(ctx, http.MethodPost, s.url(s.web, "part?id="+id), drip{body, tick}, timeout)
		},
		"InvokeService": func(id string) (daprAnswer, error) {
			_, err := runtimev1.NewDaprClient(s.conn).InvokeService(ctx, &runtimev1.InvokeServiceRequest{Id: s.web, Message: &commonv1.InvokeRequest{
				Method: "whole", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "id=" + id},
			}})
			return daprAnswer{}, err
		},
		"unary":        func(id string) (daprAnswer, error) { return daprAnswer{}, rpc("Hold", id) },
		"both streams": func(id string) (daprAnswer, error) { return daprAnswer{}, rpc("Both", id) },
	}
	out := make(chan ending, len(kinds))
	ids = map[string]string{}
	for kind, call := range kinds {
		k.ids++
		id := fmt.Sprint("call-", k.ids)
		ids[kind] = id
		go func() {
			began := time.Now()
			a, err := call(id)
			out <- ending{kind, a, err, time.Since(began)}
		}()
	}
	for kind, id := range ids {
		testkit.Eventually(s.t, ctx, kind+" arrives", func() error {
			if len(out) > 0 {
				e := <-out
				s.t.Fatalf("%s ended before anything did: %v %v", e.kind, e.daprAnswer, e.err)
			}
			if k.wrote(s.t, "begin "+id) == 0 {
				return errors.New("it does not")
			}
			return nil
		})
	}
	return ids, out
}

// victim is what is killed under a call.
type victim struct {
	name        string
	kill, start func()
	// entry says that the caller speaks to it, and hears of its end from its own connection.
	entry bool
	// says is the code that others hear, unary that of unary proxied calls. Internal is ours: the call
	// may have been executed.
	says, unary codes.Code
	// dead is what new calls hear while the victim, the application, does not listen.
	dead, deadProxied codes.Code
}

// victims of each way, the callee's side first.
func (k *killing) victims() [][]victim {
	app := victim{
		name: "application", kill: k.app.Kill, start: k.app.Start, says: codes.Internal, unary: codes.Internal,
		dead: codes.Unavailable, deadProxied: codes.Unavailable,
	}
	// A daprd 1.14 does not tell whether it reached its HTTP application. Of its gRPC application it
	// says Unavailable in either case, as that might itself: the word is passed on, and nobody tries
	// again on it.
	behindDaprd := app
	behindDaprd.unary, behindDaprd.dead = codes.Unavailable, codes.Internal
	sidecars := victim{
		name: "callee's daprd", says: codes.Internal, unary: codes.Internal,
		kill: func() { k.till.Kill(); k.tillRPC.Kill() }, start: func() { k.till.Start(); k.tillRPC.Start() },
	}
	agent := func(cluster string, says codes.Code, entry bool) victim {
		a := k.clusters[cluster].agent
		return victim{name: "agent of " + cluster, kill: a.Kill, start: a.Start, says: says, unary: says, entry: entry}
	}
	caller := victim{name: "caller's daprd", kill: k.caller.Kill, start: k.caller.Start, entry: true}
	// A daprd 1.14 says Unavailable of an agent that dies under its calls, and tries again, three
	// times, a second apart: an agent that is back by then executes the call anew.
	nextToDaprd := agent("east", codes.Unavailable, false)
	return [][]victim{
		{app, nextToDaprd, caller},
		{behindDaprd, sidecars, agent("west", 0, true)},
		{app, agent("west", codes.Internal, false), agent("east", 0, true)},
		{behindDaprd, sidecars, agent("west", codes.Internal, false), nextToDaprd, caller},
	}
}

// Killing either end under a call gives its caller a typed error before the deadline, and no call
// is executed a second time.
func TestRealKilledUnderACall(t *testing.T) {
	k := newKilling(t)
	victims := k.victims()
	var all []string
	for i, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			s := way.of(k.spliced, t)
			for _, v := range victims[i] {
				if !t.Run(v.name, func(t *testing.T) {
					all = slices.AppendSeq(all, maps.Values(k.killed(s.at(t), v)))
				}) {
					return // the victim may still be dead
				}
			}
		})
	}
	for _, id := range all {
		if n := k.wrote(t, "begin "+id); n != 1 {
			t.Errorf("%s was executed %d times", id, n)
		}
	}
}

// killed kills the victim under calls of all kinds, and gives their ids.
func (k *killing) killed(s *way, v victim) map[string]string {
	s.conn = dial(s.t, s.conn.Target())
	s.ready()
	ids, endings := k.hold(s)
	v.kill()
	for range ids {
		e := <-endings
		if e.took > heldFor/2 {
			s.t.Errorf("%s: only after %v", e.kind, e.took)
		}
		v.check(s, e)
	}
	for kind, id := range ids {
		if n := k.wrote(s.t, "begin "+id); n != 1 {
			s.t.Errorf("%s was executed %d times", kind, n)
		}
		if v.dead != codes.OK {
			continue
		}
		testkit.Eventually(s.t, s.ctx, "the application learns of the end of "+kind, func() error {
			if k.wrote(s.t, "end "+id) == 0 {
				return errors.New("it does not")
			}
			return nil
		})
	}
	if v.dead != codes.OK {
		v.notListening(s)
	}
	v.start()
	s.ready()
	return ids
}

// check says what a call's ending has to be.
func (v victim) check(s *way, e ending) {
	s.t.Helper()
	switch is := status.Convert(e.err); {
	case v.entry && (e.kind == "POST" || e.kind == "streaming body"):
		if e.err == nil {
			s.t.Errorf("%s was answered: %v", e.kind, e.daprAnswer)
		}
	case v.entry:
		if is.Code() != codes.Unavailable {
			s.t.Errorf("%s: %v", e.kind, e.err)
		}
	case e.kind == "unary" || e.kind == "both streams":
		want := v.says
		if e.kind == "unary" {
			want = v.unary
		}
		if is.Code() != want || want == codes.Internal && reason(e.err) != "OUTCOME_UNKNOWN" {
			s.t.Errorf("%s: %v with %v, want %v", e.kind, e.err, is.Details(), want)
		}
	case v.says == codes.Unavailable:
		// Of calls that share a connection, the first to fail makes daprd close it under the others.
		if text := e.body + is.Message(); !strings.Contains(text, "code = Unavailable") && !strings.Contains(text, "code = Canceled") {
			s.t.Errorf("%s: %v %v", e.kind, e.daprAnswer, e.err)
		}
	case e.kind == "InvokeService":
		s.refused(e.kind, e.err, v.says)
	case e.kind == "streaming body" && e.err != nil && !s.sidecar:
		// Over HTTP/1.1 an answer may be lost on a caller who still sends: its connection is closed.
	default:
		if e.err != nil || !s.sidecar && !strings.Contains(e.body, `"errorCode":"OUTCOME_UNKNOWN"`) {
			s.t.Errorf("%s: %v %v", e.kind, e.daprAnswer, e.err)
		}
		s.fails(e.kind, e.daprAnswer, http.StatusBadGateway, v.says)
	}
}

// notListening checks calls while the application is dead.
func (v victim) notListening(s *way) {
	s.t.Helper()
	a, err := s.get(s.ctx, http.MethodPost, s.url(s.web, "whole"), strings.NewReader("x"))
	if err != nil {
		s.t.Error(err)
	}
	want := http.StatusServiceUnavailable
	if v.dead == codes.Internal {
		want = http.StatusBadGateway
	}
	s.fails("not listening", a, want, v.dead)
	if _, err := s.unary(s.ctx, s.sale, "x"); status.Code(err) != v.deadProxied {
		s.t.Errorf("not listening: %v, want %v", err, v.deadProxied)
	}
}
