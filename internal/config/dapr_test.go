package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestDapr(t *testing.T) {
	const agent = "cluster: east\nnode: n1\nsynchronizers: [127.0.0.1:7700]\n"
	for text, want := range map[string]*Dapr{
		"":                                    nil,
		"dapr: {listen: '127.0.0.1:50003'}\n": {Listen: "127.0.0.1:50003"},
		"dapr: {listen: ':50003', insecure: true}\n":                   {Listen: ":50003", Insecure: true},
		"dapr: {listen: ':50003', insecure: true, announce: {}}\n":     {Listen: ":50003", Insecure: true, Announce: &Announce{}},
		"dapr:\n  listen: 10.0.0.1:0\n  insecure: true\n  announce:\n": {Listen: "10.0.0.1:0", Insecure: true, Announce: &Announce{}},
	} {
		got, err := ParseAgent("farcall.yaml", []byte(agent+text))
		switch {
		case err != nil:
			t.Errorf("%q: %v", text, err)
		case (got.Dapr == nil) != (want == nil), want != nil && !reflect.DeepEqual(got.Dapr, want):
			t.Errorf("%q: got %+v", text, got.Dapr)
		}
	}
	for text, want := range map[string]string{
		"dapr: {}\n":                                                         "farcall.yaml:4: dapr.listen: is missing: want where the sidecars of this node call",
		"dapr: {listen: ''}\n":                                               "farcall.yaml:4: dapr.listen: is empty: want where the sidecars",
		"dapr: {listen: 50003}\n":                                            "farcall.yaml:4: dapr.listen: ",
		"dapr: {listen: '127.0.0.1'}\n":                                      `farcall.yaml:4: dapr.listen: "127.0.0.1" is not host:port; did you mean "127.0.0.1:50003"?`,
		"dapr: {listen: 'unix:///run/x'}\n":                                  "a unix socket is not possible here",
		"dapr: {listen: '0.0.0.0:50003'}\n":                                  `write "insecure: true" in the "dapr" block`,
		"dapr: {lisen: '127.0.0.1:50003'}\n":                                 `did you mean "listen"?`,
		"dapr: {listen: ':1', tls: {ca: x}}\n":                               "dapr.tls.cert: is missing",
		"dapr: {listen: '127.0.0.1:1', announce: {}}\n":                      "farcall.yaml:4: dapr.announce: stands beside dapr.listen: 127.0.0.1:1, which is loopback: sidecars that hear of it would call their own host",
		"dapr: {listen: ':1', insecure: true, announce: true}\n":             "dapr.announce: want a mapping of keys to values, got true or false",
		"dapr: {listen: ':1', insecure: true, announce: {interface: [a]}}\n": `did you mean "interfaces"?`,
		"dapr: {listen: ':1', insecure: true, announce: {interfaces: [eth0, 'a/b', eth0]}}\n": `dapr.announce.interfaces[1]: "a/b" is not the name of a network interface`,
		"dapr: {listen: ':1', insecure: true, announce: {interfaces: [eth0, eth0]}}\n":        "dapr.announce.interfaces[1]: eth0 is listed twice",
	} {
		if _, err := ParseAgent("farcall.yaml", []byte(agent+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
