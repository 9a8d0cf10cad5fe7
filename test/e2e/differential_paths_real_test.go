//go:build real && linux

package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

// TestRealOddPaths says which path an application sees where a daprd stands before the agents,
// behind them, or at both ends. A daprd puts what it gets into a URL as it is, and what it sends may
// be decoded or not: an agent writes it so that the path stays the same, and reads what can be read.
func TestRealOddPaths(t *testing.T) {
	app := newRecorder(t)
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(app.port))
	callee := testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "till", App: addr})
	listen := loopback(t)
	w := newWorld(t, options{agent: func(name string) string {
		if name == "east" {
			return "dapr: {listen: \"" + listen + "\"}\n"
		}
		return fmt.Sprintf("apps: [{id: till, port: %d, protocol: dapr}]\n", callee.Internal.Port())
	}}, "east", "west")
	caller := testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "web", Resolver: resolver(listen)})
	reg := w.clusters["west"].registry.(*fileRegistry)
	reg.addService("rec", "rec-1", app.port, "west-1")
	reg.addService("till", "till-1", app.port, "west-1")
	w.ready("rec/method/ready")
	w.ready("till/method/ready")
	app.take()
	for _, way := range []struct {
		name, app string
		side      side
	}{
		{"agent, agent, daprd", "till", side{http: w.clusters["east"].http}},
		{"daprd, agent, agent", "rec", side{http: caller.HTTP.String()}},
		{"daprd, agent, agent, daprd", "till", side{http: caller.HTTP.String()}},
	} {
		for _, c := range []struct{ path, want string }{
			{"a/b", "/a/b"},
			{"a%20b", "/a%20b"},
			{"%C3%BC", "/%C3%BC"},
			{"a%2Fb", "/a/b"},
			{"a%2F..%2F..%2Fb", "/b"},
			{"a+b", "/a+b"},
			{"100%25", "/100%25"},
			{"Products(1)/$value", "/Products(1)/$value"},
			{"x?a=%20&b=+&c=%zz", "/x?a=%20&b=+&c=%zz"},
			{"a%2520b", "/a%2520b"},
		} {
			want := c.want
			if c.path == "a%2520b" && way.side.http == caller.HTTP.String() {
				want = "/a%20b" // which is all that the daprd says
			}
			got := way.side.send(t, "GET /v1.0/invoke/"+way.app+"/method/"+c.path+" HTTP/1.1\r\nHost: h\r\n\r\n", "GET")
			calls := app.take()
			if len(calls) != 1 || calls[0]["target"] != want || got["status"] != "200" {
				t.Errorf("%s: %s: the application saw %v, want %s; the caller got %s %s", way.name, c.path, calls, want, got["status"], got["body"])
			}
		}
	}
}
