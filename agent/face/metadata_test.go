package face

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/invoke"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// TestMetadata says what the SDKs of Dapr read, and that an application finds what it noted over the
// other protocol, and no other application does.
func TestMetadata(t *testing.T) {
	a := newAgent(t, &plan{}, nil, Config{Apps: []App{{Name: web, Token: "webs"}, {Name: bank, Token: "banks"}}}, homes{})
	get := func(token string) (map[string]any, *runtimev1.GetMetadataResponse) {
		t.Helper()
		got := call(t, "GET", a.url+"/v1.0/metadata", http.NoBody, invoke.APIToken, token)
		var over map[string]any
		if err := json.Unmarshal([]byte(got.body), &over); err != nil || got.StatusCode != http.StatusOK {
			t.Fatalf("got %d %s: %v", got.StatusCode, got.body, err)
		}
		ctx := metadata.AppendToOutgoingContext(testkit.Context(t), invoke.APIToken, token)
		m, err := a.grpc.GetMetadata(ctx, &runtimev1.GetMetadataRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return over, m
	}
	set := func(token, key, value string) error {
		ctx := metadata.AppendToOutgoingContext(testkit.Context(t), invoke.APIToken, token)
		_, err := a.grpc.SetMetadata(ctx, &runtimev1.SetMetadataRequest{Key: key, Value: value})
		return err
	}
	over, m := get("webs")
	for k, want := range map[string]string{
		"id": "web", "namespace": "shop", "runtimeVersion": "v0", "cluster": "east", "node": "node-1", "apps": "[bank web]",
		"extended":   "map[farcall:v0 farcall-cluster:east farcall-node:node-1]",
		"components": "[]", "actors": "[]", "subscriptions": "[]", "httpEndpoints": "[]", "actorRuntime": "map[hostReady:false runtimeStatus:DISABLED]",
	} {
		if got := fmt.Sprint(over[k]); got != want {
			t.Errorf("%s: got %s, want %s", k, got, want)
		}
	}
	if m.GetId() != "web" || m.GetRuntimeVersion() != "v0" || m.GetExtendedMetadata()["farcall-node"] != "node-1" {
		t.Errorf("got %v", m)
	}

	want(t, call(t, "PUT", a.url+"/v1.0/metadata/cliPID", strings.NewReader("17"), invoke.APIToken, "webs"), http.StatusNoContent, "")
	if err := set("webs", "zone", "blue"); err != nil {
		t.Error(err)
	}
	if over, m = get("webs"); fmt.Sprint(over["extended"]) != fmt.Sprint(m.GetExtendedMetadata()) || m.GetExtendedMetadata()["cliPID"] != "17" || m.GetExtendedMetadata()["zone"] != "blue" {
		t.Errorf("got %v and %v", over["extended"], m)
	}
	if _, m = get("banks"); m.GetId() != "bank" || len(m.GetExtendedMetadata()) != 3 {
		t.Errorf("another application: got %v", m)
	}

	// Only PUT of one key is the metadata API; all else is an invocation, as with Dapr.
	for _, c := range []struct{ method, path string }{{"GET", "/v1.0/metadata/k"}, {"PUT", "/v1.0/metadata/k/l"}, {"PUT", "/v1.0/metadatax"}} {
		want(t, call(t, c.method, a.url+c.path, http.NoBody), http.StatusNotFound, "ERR_DIRECT_INVOKE")
	}
	want(t, call(t, "PUT", a.url+"/v1.0/metadata/", http.NoBody), http.StatusBadRequest, "needs a key")
	want(t, call(t, "PUT", a.url+"/v1.0/metadata/k", strings.NewReader(strings.Repeat("x", maxAttribute+1))), http.StatusRequestEntityTooLarge, "4096 bytes")
	want(t, call(t, "PUT", a.url+"/v1.0/metadata/k", strings.NewReader("\xff")), http.StatusBadRequest, "UTF-8")
	for key, code := range map[string]codes.Code{"": codes.InvalidArgument, "farcall": codes.InvalidArgument, strings.Repeat("k", maxAttribute+1): codes.ResourceExhausted} {
		if err := set("webs", key, "v"); status.Code(err) != code {
			t.Errorf("%.20q: got %v", key, err)
		}
	}
}

// What applications note is bounded; what is there already can still be changed.
func TestAttributesAreBounded(t *testing.T) {
	a := NewAttributes(Config{Version: "v0"})
	w := newWho(identityOf(web))
	for i := range maxAttributes {
		if err := a.note(w, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.note(newWho(identityOf(bank)), "k", "v"); err == nil || err.Code != codes.ResourceExhausted {
		t.Errorf("one more: got %v", err)
	}
	if err := a.note(w, "k1", "new"); err != nil || a.of(w)["k1"] != "new" {
		t.Errorf("a change: got %v", err)
	}
}
