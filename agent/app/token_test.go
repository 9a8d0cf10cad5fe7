package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/farcall/farcall/agent/invoke"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// TestToken says that an application is shown its own token, and never one that a caller sent.
func TestToken(t *testing.T) {
	var shown []string
	web := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		shown = append(r.Header["Dapr-Api-Token"], r.Header["Dapr_api_token"]...)
	})
	rpc := &callback{}
	s := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(s, rpc)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "app", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
	c := channels(t)
	for name, want := range map[string]struct {
		access *Access
		token  string
	}{
		"no access":          {nil, ""},
		"an empty token":     {&Access{}, ""},
		"a token of its own": {&Access{Token: "mine"}, "mine"},
	} {
		for _, protocol := range []Protocol{HTTP, H2C, GRPC} {
			shown, rpc.md = nil, nil
			e := web
			if protocol == GRPC {
				e = endpoint(t, l.Addr())
			}
			e.Protocol, e.Access = protocol, want.access
			r := post("x")
			r.Header = invoke.Header{"Dapr-Api-Token": {"callers"}, "dapr-api-token": {"callers"}, "Dapr_Api_Token": {"callers"}, "X-Own": {"1"}}
			resp, err := c.Deliver(testkit.Context(t), e, r)
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			if protocol == GRPC {
				shown = rpc.md["dapr-api-token"]
				shown = append(shown, rpc.md["dapr_api_token"]...)
			}
			if got := strings.Join(shown, "|"); got != want.token {
				t.Errorf("%s, %s: the application was shown %q, want %q", name, protocol, got, want.token)
			}
			if text := fmt.Sprintf("%v %+v", e, e); strings.Contains(text, "mine") {
				t.Errorf("the token stands in %s", text)
			}
		}
	}
}
