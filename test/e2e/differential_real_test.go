//go:build real && linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

// account is what was seen at one end of a call: "header X-Custom" and the like, and its value.
type account map[string]string

func (a account) headers(kind string, h http.Header) {
	for k, v := range h {
		a[kind+" "+k] = strings.Join(v, " | ")
	}
}

// recorder is an application that keeps an account of the calls it gets. What it answers is what
// the header X-Answer names.
type recorder struct {
	port  int
	mu    sync.Mutex
	calls []account
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{}
	r.port = serveApp(t, r, nil)
	return r
}

// longAgo is the date of the recorder's answers; what answers in its place says the present one.
const longAgo = "Thu, 01 Jan 1970 00:00:00 GMT"

// ServeHTTP implements http.Handler.
func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b, err := io.ReadAll(req.Body)
	a := account{
		"verb": req.Method, "target": req.RequestURI, "protocol": req.Proto, "host": req.Host,
		"length": fmt.Sprint(req.ContentLength), "coding": strings.Join(req.TransferEncoding, ","), "body": string(b),
	}
	if err != nil {
		a["body"] += " " + err.Error()
	}
	a.headers("header", req.Header)
	a.headers("trailer", req.Trailer)
	r.mu.Lock()
	r.calls = append(r.calls, a)
	r.mu.Unlock()
	w.Header().Set("Date", longAgo)
	if answer := oddAnswers[req.Header.Get("X-Answer")]; answer != nil {
		answer(w, req)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, "answer")
}

// take gives the calls since the last take.
func (r *recorder) take() []account {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// side is one of the two that are compared: daprds, and agents.
type side struct{ http, grpc string }

// send sends a request as it is spelt, and gives an account of the answer.
func (s side) send(t *testing.T, text, verb string) account {
	t.Helper()
	c, err := net.Dial("tcp", s.http)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, &http.Request{Method: verb})
	for err == nil && resp.StatusCode < 200 {
		resp, err = http.ReadResponse(in, &http.Request{Method: verb}) // what came first was no answer yet
	}
	if err != nil {
		return account{"status": err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := account{
		"status": fmt.Sprint(resp.StatusCode), "body": string(b),
		"length": fmt.Sprint(resp.ContentLength), "coding": strings.Join(resp.TransferEncoding, ","),
	}
	if err != nil {
		a["body"] += " " + err.Error()
	}
	a.headers("header", resp.Header)
	a.headers("trailer", resp.Trailer)
	if date, ok := a["header Date"]; ok && date != longAgo {
		a["header Date"] = "now"
	}
	return a
}

// sides starts both, each with the applications rec, of HTTP, and rpc, of gRPC.
func sides(t *testing.T, rec *recorder, rpc *recorderRPC) [2]side {
	t.Helper()
	at := func(port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	}
	one := testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "rec", App: at(rec.port)})
	two := testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "rpc", App: at(rpc.port), Args: []string{"--app-protocol", "grpc"}})
	caller := testkit.Daprd(t, nil, testkit.DaprdConfig{
		AppID: "web", Resolver: resolver(fmt.Sprintf(`{{if eq .ID "rpc"}}%s{{else}}%s{{end}}`, two.Internal, one.Internal)),
	})
	w := newWorld(t, options{agent: func(name string) string {
		if name == "east" {
			return fmt.Sprintf("apps: [{id: web, port: %d}]\n", rec.port)
		}
		return "apps: [{id: rpc, protocol: grpc}]\n"
	}}, "east", "west")
	reg := w.clusters["west"].registry.(*fileRegistry)
	reg.addService("rec", "rec-1", rec.port, "west-1")
	reg.addService("rpc", "rpc-1", rpc.port, "west-1")
	w.ready("rec/method/ready")
	w.ready("rpc/method/ready")
	rec.take()
	rpc.take()
	return [2]side{{caller.HTTP.String(), caller.GRPC.String()}, {w.clusters["east"].http, w.clusters["east"].grpc}}
}

// TestRealDifferential makes the same odd calls through two daprds and through two agents, to the
// same applications. What they see, and what the caller gets, is equal but for what is listed.
func TestRealDifferential(t *testing.T) {
	rec, rpc := newRecorder(t), newRecorderRPC(t)
	both := sides(t, rec, rpc)
	used := map[string]bool{}
	run := func(name string, call func(s side) account) {
		t.Run(name, func(t *testing.T) {
			var sees, gets [2]account
			for i, s := range both {
				gets[i] = call(s)
				calls := append(rec.take(), rpc.take()...)
				sees[i] = account{"calls": fmt.Sprint(len(calls))}
				if len(calls) > 0 {
					maps.Copy(sees[i], calls[0])
				}
			}
			// Where only one has called, or neither has, that is what counts, and the status.
			if sees[0]["calls"] != sees[1]["calls"] || sees[0]["calls"] == "0" {
				for i := range sees {
					sees[i] = account{"calls": sees[i]["calls"]}
					gets[i] = account{"status": gets[i]["status"]}
				}
			}
			compare(t, name, appSees, sees, used)
			compare(t, name, callerGets, gets, used)
		})
	}
	for _, c := range oddRequests {
		run(c.name, func(s side) account { return s.send(t, c.text(), c.verb()) })
	}
	for _, c := range oddInvocations {
		run(c.name, func(s side) account { return s.invoke(t, c) })
	}
	for _, d := range deliberate {
		if !used[d.key()] {
			t.Errorf("%s is listed as a difference, and is none", d.key())
		}
	}
}

// compare fails for each difference that is not listed.
func compare(t *testing.T, name, end string, a [2]account, used map[string]bool) {
	t.Helper()
	keys := slices.Sorted(maps.Keys(a[0]))
	for k := range a[1] {
		if _, ok := a[0][k]; !ok {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		x, inX := a[0][k]
		y, inY := a[1][k]
		if x == y && inX == inY {
			continue
		}
		i := slices.IndexFunc(deliberate, func(d difference) bool {
			return d.end == end && among(d.what, k) && (d.of == "" || among(d.of, name))
		})
		if i < 0 {
			t.Errorf("%s: %s: %s by way of daprds, %s by way of agents", end, k, said(x, inX), said(y, inY))
			continue
		}
		used[deliberate[i].key()] = true
	}
}

// among reports whether a word is one of a list, in which "some*" stands for all that begin so.
func among(list, word string) bool {
	for one := range strings.SplitSeq(list, "; ") {
		if begin, ok := strings.CutSuffix(one, "*"); one == word || ok && strings.HasPrefix(word, begin) {
			return true
		}
	}
	return false
}

func said(v string, in bool) string {
	if !in {
		return "nothing"
	}
	return fmt.Sprintf("%q", v)
}
