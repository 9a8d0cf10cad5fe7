package config

import (
	"strings"
	"testing"
)

func TestDapr(t *testing.T) {
	const agent = "cluster: east\nnode: n1\nsynchronizers: [127.0.0.1:7700]\n"
	for text, want := range map[string]*Listener{
		"":                                    nil,
		"dapr: {listen: '127.0.0.1:50003'}\n": {Listen: "127.0.0.1:50003"},
		"dapr: {listen: ':50003', insecure: true}\n": {Listen: ":50003", Insecure: true},
	} {
		got, err := ParseAgent("farcall.yaml", []byte(agent+text))
		switch {
		case err != nil:
			t.Errorf("%q: %v", text, err)
		case (got.Dapr == nil) != (want == nil), want != nil && *got.Dapr != *want:
			t.Errorf("%q: got %+v", text, got.Dapr)
		}
	}
	for text, want := range map[string]string{
		"dapr: {}\n":                           "farcall.yaml:4: dapr.listen: is missing: want where the sidecars of this node call",
		"dapr: {listen: ''}\n":                 "farcall.yaml:4: dapr.listen: is empty: want where the sidecars",
		"dapr: {listen: 50003}\n":              "farcall.yaml:4: dapr.listen: ",
		"dapr: {listen: '127.0.0.1'}\n":        `farcall.yaml:4: dapr.listen: "127.0.0.1" is not host:port; did you mean "127.0.0.1:50003"?`,
		"dapr: {listen: 'unix:///run/x'}\n":    "a unix socket is not possible here",
		"dapr: {listen: '0.0.0.0:50003'}\n":    `write "insecure: true" in the "dapr" block`,
		"dapr: {lisen: '127.0.0.1:50003'}\n":   `did you mean "listen"?`,
		"dapr: {listen: ':1', tls: {ca: x}}\n": "dapr.tls: not supported by this version",
	} {
		if _, err := ParseAgent("farcall.yaml", []byte(agent+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
