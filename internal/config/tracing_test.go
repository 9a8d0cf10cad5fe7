package config

import (
	"strings"
	"testing"
)

func TestTracing(t *testing.T) {
	const agent = "cluster: east\nnode: n1\nsynchronizers: [127.0.0.1:7700]\n"
	for text, want := range map[string]*Tracing{
		"": nil,
		"tracing: {endpoint: '127.0.0.1:4317'}\n":                 {Endpoint: "127.0.0.1:4317"},
		"tracing: {endpoint: 'collector:4317', insecure: true}\n": {Endpoint: "collector:4317", Insecure: true},
	} {
		got, err := ParseAgent("farcall.yaml", []byte(agent+text))
		switch {
		case err != nil:
			t.Errorf("%q: %v", text, err)
		case (got.Tracing == nil) != (want == nil), want != nil && *got.Tracing != *want:
			t.Errorf("%q: got %+v", text, got.Tracing)
		}
	}
	for text, want := range map[string]string{
		"tracing: {}\n":                                  "tracing",
		"tracing: {insecure: true}\n":                    "farcall.yaml:4: tracing.endpoint: is missing: want a collector, for example endpoint: 127.0.0.1:4317",
		"tracing: {endpoint: collector}\n":               "farcall.yaml:4: tracing.endpoint: ",
		"tracing: {endpoint: 'http://collector:4317'}\n": "farcall.yaml:4: tracing.endpoint: ",
		"tracing: {endpiont: 'collector:4317'}\n":        `did you mean "endpoint"?`,
	} {
		if _, err := ParseAgent("farcall.yaml", []byte(agent+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
