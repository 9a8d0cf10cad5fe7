package face

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// everyCall makes every kind of call of the gRPC face, and gives their errors by name.
func everyCall(t *testing.T, a *callerAgent, token string) map[string]error {
	t.Helper()
	ctx := testkit.Context(t)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, invoke.APIToken, token)
	}
	out := map[string]error{}
	_, out["InvokeService"] = a.grpc.InvokeService(ctx, &runtimev1.InvokeServiceRequest{Id: "cart", Message: &commonv1.InvokeRequest{
		Method: "m", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST},
	}})
	_, out["GetMetadata"] = a.grpc.GetMetadata(ctx, &runtimev1.GetMetadataRequest{})
	_, out["SetMetadata"] = a.grpc.SetMetadata(ctx, &runtimev1.SetMetadataRequest{Key: "k", Value: "v"})
	_, out["Resolve"] = a.agent.Resolve(ctx, &agentv1.ResolveRequest{Service: "cart"})
	_, out["Explain"] = a.agent.Explain(ctx, &agentv1.ExplainRequest{Service: "cart"})
	watch, err := a.agent.Watch(ctx, &agentv1.ResolveRequest{Service: "cart"})
	if err == nil {
		_, err = watch.Recv()
	}
	out["Watch"] = err
	stream, err := a.agent.Broadcast(ctx, &agentv1.BroadcastRequest{Service: "cart", Method: "m"})
	if err == nil {
		_, err = stream.Recv()
	}
	out["Broadcast"] = err
	return out
}

// TestTokenIsDemanded says that with DAPR_API_TOKEN every call shows a token, but for health.
func TestTokenIsDemanded(t *testing.T) {
	app := newPeerAgent(t, "west", "cart-1", application(t, echo))
	p := &plan{targets: []relay.Target{app.target()}}
	a := newAgent(t, p, nil, Config{APIToken: "all-hush", Apps: []App{{Name: web, Token: "web-hush"}, {Name: bank}}}, own{})
	for token, good := range map[string]bool{"": false, "all": false, "all-hush ": true, "all-hush": true, "web-hush": true, "bank": false} {
		said := []string{"dapr-app-id", "cart"}
		if token != "" {
			said = append(said, "Dapr-Api-Token", token)
		}
		for _, c := range []struct{ method, path string }{
			{"POST", "/m"}, {"GET", "/v1.0/metadata"}, {"PUT", "/v1.0/metadata/k"}, {"GET", "/v1.0/healthz/"}, {"GET", "/v1.0/nothing"}, {"GET", "/healthz"},
		} {
			got := call(t, c.method, a.url+c.path, http.NoBody, said...)
			if good == (got.StatusCode == http.StatusUnauthorized) {
				t.Errorf("token %q: %s %s: got %d %s", token, c.method, c.path, got.StatusCode, got.body)
			}
			if !good && !strings.HasPrefix(got.body, `{"errorCode":"UNAUTHENTICATED","message":"invalid api token`) {
				t.Errorf("token %q: got %s", token, got.body)
			}
		}
		for _, path := range []string{"/v1.0/healthz", "/v1.0/healthz/outbound"} {
			want(t, call(t, "GET", a.url+path, http.NoBody, said[2:]...), http.StatusNoContent, "")
		}
		for name, err := range everyCall(t, a, strings.TrimSpace(token)) {
			if s := status.Convert(err); good == (s.Code() == codes.Unauthenticated) || !good && !strings.HasPrefix(s.Message(), "invalid api token") {
				t.Errorf("token %q: %s: got %v", token, name, err)
			}
		}
	}
}

// TestTokenThatIsNobodys says that a token which is nobody's is refused where there are any.
func TestTokenThatIsNobodys(t *testing.T) {
	app := newPeerAgent(t, "west", "cart-1", application(t, echo))
	for name, c := range map[string]struct {
		apps []App
		code int
	}{
		"no tokens at all":        {[]App{{Name: web}}, http.StatusOK},
		"an application's tokens": {[]App{{Name: web}, {Name: bank, Token: "hush"}}, http.StatusUnauthorized},
	} {
		p := &plan{targets: []relay.Target{app.target()}}
		a := newAgent(t, p, nil, Config{Apps: c.apps}, own{})
		got := call(t, "POST", a.url+"/m", http.NoBody, "dapr-app-id", "cart", "dapr-api-token", "stranger")
		if got.StatusCode != c.code || strings.Contains(got.body, "stranger") || strings.Contains(got.body, "hush") {
			t.Errorf("%s: got %d %s", name, got.StatusCode, got.body)
		}
		// Without one nobody is refused.
		want(t, call(t, "POST", a.url+"/m", http.NoBody, "dapr-app-id", "cart"), http.StatusOK, "")
	}
}

// A token that was shown does not travel, however it is spelt, and neither does the agent's own.
func TestTokenStaysHere(t *testing.T) {
	p := &plan{}
	header, _ := asked(t, p)
	a := newAgent(t, p, nil, Config{APIToken: "all-hush"}, own{})
	want(t, call(t, "POST", a.url+"/m", http.NoBody, "dapr-app-id", "cart", "DAPR-API-TOKEN", "all-hush", "Dapr_Api_Token", "all-hush"), 200, "")
	for k, v := range <-header {
		if strings.Contains(strings.Join(v, "|"), "hush") {
			t.Errorf("%s: %q reached the application", k, v)
		}
	}
	got := call(t, "GET", a.url+"/v1.0/metadata", http.NoBody, "dapr-api-token", "all-hush")
	if got.StatusCode != http.StatusOK || strings.Contains(got.body, "hush") {
		t.Errorf("metadata: %d %s", got.StatusCode, got.body)
	}
}
