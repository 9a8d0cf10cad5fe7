package proxy

import (
	"fmt"
	"regexp"
	"testing"

	"google.golang.org/grpc/metadata"
)

// TestHeader is the table of what travels to the callee.
func TestHeader(t *testing.T) {
	in := func() metadata.MD {
		return metadata.Pairs(
			":authority", "a", "content-type", "application/grpc", "user-agent", "ua", "host", "h", "grpc-accept-encoding", "gzip",
			"dapr-app-id", "cart", "dapr-callee-app-id", "cart", "dapr-caller-app-id", "web", "dapr-caller-namespace", "shop", "dapr-caller_app_id", "x",
			"destination-app-id", "x", "dapr-api-token", "secret", "dapr_api_token", "secret", "farcall-hop", "1", "farcall-strategy", "any",
			"x-a", "1", "x-bin", "\x00", "grpc-previous-rpc-attempts", "1", "dapr-stream", "true", "traceparent", "t", "grpc-trace-bin", "b")
	}
	const always = "dapr-stream:[true] grpc-previous-rpc-attempts:[1] grpc-trace-bin:[b] traceparent:[t] x-a:[1] x-bin:[\x00]"
	for _, c := range []struct {
		believed bool
		want     string
	}{
		{false, "map[" + always + "]"},
		{true, "map[dapr-caller-app-id:[web] dapr-caller-namespace:[shop] " + always + "]"},
	} {
		if got := fmt.Sprint(map[string][]string(Header(in(), c.believed))); got != c.want {
			t.Errorf("believed %t: got  %q\nwant %q", c.believed, got, c.want)
		}
	}
}

// A sidecar adds its own word of who calls to what its application has said; that one alone is believed.
func TestHeaderBelievesTheLast(t *testing.T) {
	h := Header(metadata.Pairs("dapr-caller-app-id", "admin", "dapr-caller-namespace", "kube-system",
		"dapr-caller-app-id", "web", "dapr-caller-namespace", "shop"), true)
	if got, want := fmt.Sprint(map[string][]string(h)), "map[dapr-caller-app-id:[web] dapr-caller-namespace:[shop]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestAnswer is the table of what travels back.
func TestAnswer(t *testing.T) {
	got := Answer(metadata.MD{
		"content-type": {"application/grpc"}, "farcall-served-by": {"me"}, "Farcall-X": {"x"}, "x-a": {"1", "2"}, "x-bin": {"\x00\xff"},
		"x-odd": {"fine", "ü"}, "x~y": {"1"}, "grpc-status-details-bin": {"d"}, "dapr-http-status": {"200"},
	})
	if want := "map[dapr-http-status:[200] grpc-status-details-bin:[d] x-a:[1 2] x-bin:[\x00\xff] x-odd:[fine]]"; fmt.Sprint(map[string][]string(got)) != want {
		t.Errorf("got  %q\nwant %q", fmt.Sprint(map[string][]string(got)), want)
	}
}

// TestAppID says whom a call is for.
func TestAppID(t *testing.T) {
	for _, c := range []struct {
		md   metadata.MD
		want string
	}{
		{nil, ""},
		{metadata.Pairs("dapr-app-id", "a"), "a"},
		{metadata.Pairs("dapr-app-id", "a", "dapr-app-id", "b"), "a"},
		{metadata.Pairs("dapr-callee-app-id", "a", "dapr-callee-app-id", "b"), "b"},
		{metadata.Pairs("dapr-callee-app-id", "a", "dapr-app-id", "b"), "b"},
	} {
		if got := AppID(c.md); got != c.want {
			t.Errorf("%v: got %q, want %q", c.md, got, c.want)
		}
	}
}

// TestTraceParent says what trace a call belongs to.
func TestTraceParent(t *testing.T) {
	const text = "00-00000000000000000000000000000001-0000000000000002-01"
	binary := func(version, field byte, trace byte) string {
		b := make([]byte, 29)
		b[0], b[1], b[17], b[18], b[26], b[27], b[28] = version, field, trace, 1, 7, 2, 1
		return string(b)
	}
	const fromBinary = "00-00000000000000000000000000000009-0000000000000007-01"
	for _, c := range []struct {
		what string
		md   metadata.MD
		want string
	}{
		{"none", nil, ""},
		{"text", metadata.Pairs("traceparent", text), text},
		{"binary", metadata.Pairs("grpc-trace-bin", binary(0, 0, 9)), fromBinary},
		{"the last binary", metadata.Pairs("grpc-trace-bin", binary(0, 0, 1), "grpc-trace-bin", binary(0, 0, 9)), fromBinary},
		{"both", metadata.Pairs("traceparent", text, "grpc-trace-bin", binary(0, 0, 9)), fromBinary},
		{"another version", metadata.Pairs("traceparent", text, "grpc-trace-bin", binary(1, 0, 9)), text},
		{"other fields", metadata.Pairs("traceparent", text, "grpc-trace-bin", binary(0, 1, 9)), text},
		{"no trace", metadata.Pairs("traceparent", text, "grpc-trace-bin", binary(0, 0, 0)), text},
		{"too short", metadata.Pairs("traceparent", text, "grpc-trace-bin", "\x00"), text},
		{"empty", metadata.Pairs("grpc-trace-bin", ""), ""},
	} {
		if got := TraceParent(c.md); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

// Whatever a caller says of its trace, what is read of it is its own words or well-formed.
func FuzzTraceParent(f *testing.F) {
	f.Add("", "")
	f.Add("\x00\x00aaaaaaaaaaaaaaaa\x01bbbbbbbb\x02\x01", "00-00000000000000000000000000000001-0000000000000002-01")
	f.Fuzz(func(t *testing.T, binary, text string) {
		got := TraceParent(metadata.MD{traceBinKey: {binary}, "traceparent": {text}})
		if got != text && !regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`).MatchString(got) {
			t.Errorf("got %q", got)
		}
	})
}
