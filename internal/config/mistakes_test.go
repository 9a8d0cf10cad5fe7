package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const (
	okSynchronizer = "federation: demo\n"
	okAgent        = "cluster: east\nnode: n\nsynchronizers: [127.0.0.1:7700]\n"
)

// mistakes are files that are wrong, and every word of what is said about them.
var mistakes = []struct {
	name  string
	agent bool
	text  string
	want  []string
}{
	{name: "empty file", text: "", want: []string{
		"farcall.yaml:1: is empty: want a mapping of keys to values"}},
	{name: "only a comment", text: "# nothing\n", want: []string{
		"farcall.yaml:1: is empty: want a mapping of keys to values"}},
	{name: "only null", agent: true, text: "---\n", want: []string{
		"farcall.yaml:1: is empty: want a mapping of keys to values"}},
	{name: "not a mapping", text: "- federation: demo\n", want: []string{
		"farcall.yaml:1: want a mapping of keys to values, got a list"}},
	{name: "a text", text: "# c\nhello", want: []string{
		"farcall.yaml:2: want a mapping of keys to values, got text"}},
	{name: "an empty mapping", text: "{}", want: []string{
		"farcall.yaml:1: federation: is missing: write, for example, federation: demo"}},
	{name: "an empty mapping for an agent", agent: true, text: "{}", want: []string{
		"farcall.yaml:1: cluster: is missing: write, for example, cluster: east",
		"farcall.yaml:1: synchronizers: is missing: want at least one address, for example synchronizers: [127.0.0.1:7700]"}},
	{name: "two documents", text: okSynchronizer + "---\nfederation: two\n", want: []string{
		"farcall.yaml:2: a second document begins: want one per file"}},
	{name: "a tab", text: "federation: demo\nhttp:\n\tlisten: 127.0.0.1:1\n", want: []string{
		"farcall.yaml:3: a tab in the indentation: YAML takes spaces only"}},
	{name: "a tab in a list", text: "federation: demo\nclusters:\n  - name: a\n  \t resolvers: []\n", want: []string{
		"farcall.yaml:4: a tab in the indentation: YAML takes spaces only"}},
	{name: "no YAML", text: "federation: [demo\n", want: []string{
		"farcall.yaml:1: not YAML: did not find expected ',' or ']'"}},
	{name: "no text", text: "federation: \x00\n", want: []string{
		"farcall.yaml:1: not YAML: control characters are not allowed"}},
	{name: "an unclosed quote", text: "federation: demo\nlisten: \"127\n", want: []string{
		"farcall.yaml:2: not YAML: found unexpected end of stream"}},

	{name: "misspelt keys, all at once",
		text: "federaton: demo\nhttp: {lisen: 127.0.0.1:1}\nclusters:\n  - name: east\n    resolvers:\n      - consul: {addess: 127.0.0.1:8500}\n",
		want: []string{
			`farcall.yaml:1: federaton: unknown key; did you mean "federation"?`,
			`farcall.yaml:2: http.lisen: unknown key; did you mean "listen"?`,
			`farcall.yaml:6: clusters[0].resolvers[0].consul.addess: unknown key; did you mean "address"?`}},
	{name: "a misspelt kind is not also a missing one",
		text: okSynchronizer + "clusters:\n- name: a\n  resolvers:\n  - consol: {}\n",
		want: []string{
			`farcall.yaml:5: clusters[0].resolvers[0].consol: unknown key; did you mean "consul"?`}},
	{name: "a key of another case", text: okSynchronizer + "datadir: x\n", want: []string{
		`farcall.yaml:2: datadir: unknown key; did you mean "dataDir"?`}},
	{name: "a key like no other", text: okSynchronizer + "clusters: [{name: a, colour: red, resolvers: [file: {path: x}]}]\n", want: []string{
		"farcall.yaml:2: clusters[0].colour: unknown key; the keys here are labels, locality, name, resolvers, via"}},
	{name: "a key one level too high", agent: true, text: okAgent + "listen: 127.0.0.1:1\nresolvers:\n- address: x\n- namespace: y\n", want: []string{
		`farcall.yaml:4: listen: unknown key here; it goes inside "internal", "http", "grpc", "dapr" or "metrics"`,
		`farcall.yaml:6: resolvers[0].address: unknown key here; it goes inside "consul"`,
		`farcall.yaml:7: resolvers[1].namespace: unknown key here; it goes inside "consul", "dns", "file", "kubernetes" or "mdns"`}},
	{name: "a key that is no word", text: okSynchronizer + "\"a\\nb\": 1\n? [x]\n: 2\n5: 6\n", want: []string{
		`farcall.yaml:2: "a\nb": unknown key; the keys here are clusters, dataDir, federation, guard, http, insecure, listen, store, tls`,
		"farcall.yaml:3: a key must be a word, got a list",
		"farcall.yaml:5: 5: unknown key; the keys here are clusters, dataDir, federation, guard, http, insecure, listen, store, tls"}},
	{name: "keys of later versions",
		text: okSynchronizer + "admin: {listen: y}\nclusters:\n- {name: a, via: agents}\n",
		want: []string{
			"farcall.yaml:2: admin: not supported by this version"}},
	{name: "dns",
		text: okSynchronizer + `clusters:
- name: a
  resolvers:
  - dns:
      servers: [127.0.0.1, "127.0.0.1:0", 127.0.0.1]
      minTTL: 1m
      timeout: 0s
      services:
        a: _a._tcp.example.
        b: b.example.
        c: {name: "c.example:80", port: 80}
        d: {type: srv}
        e: {name: e., port: 70000, type: SRV, family: ipv5, srvPort: apps}
        F_/x: {name: f., relayPort: 0, prot: 1}
  - dns: {}
`,
		want: []string{
			`farcall.yaml:6: clusters[0].resolvers[0].dns.servers[1]: "127.0.0.1:0": port "0" is not in 1 to 65535`,
			`farcall.yaml:6: clusters[0].resolvers[0].dns.servers[2]: 127.0.0.1 is listed twice`,
			`farcall.yaml:7: clusters[0].resolvers[0].dns.minTTL: 1m0s is above maxTTL, which is 30s`,
			`farcall.yaml:8: clusters[0].resolvers[0].dns.timeout: 0s is not a time: want more than 0s`,
			`farcall.yaml:11: clusters[0].resolvers[0].dns.services.b: address records state no port: write {name: b.example., relayPort: 50002} for an agent or sidecar there, or port: for the application's own`,
			`farcall.yaml:12: clusters[0].resolvers[0].dns.services.c.name: "c.example:80" is not a DNS name: want one such as _billing._tcp.example.com.; a port goes into port or relayPort`,
			`farcall.yaml:13: clusters[0].resolvers[0].dns.services.d.name: is missing: want a DNS name, for example _billing._tcp.example.com.`,
			`farcall.yaml:14: clusters[0].resolvers[0].dns.services.e.type: unknown word "SRV": want "srv" or "address"; did you mean "srv"?`,
			`farcall.yaml:14: clusters[0].resolvers[0].dns.services.e.srvPort: unknown word "apps": want "relay" or "app"; did you mean "app"?`,
			`farcall.yaml:14: clusters[0].resolvers[0].dns.services.e.family: unknown word "ipv5": want "ipv4", "ipv6" or "both"; did you mean "ipv4"?`,
			`farcall.yaml:14: clusters[0].resolvers[0].dns.services.e.port: 70000 is not in 1 to 65535`,
			`farcall.yaml:15: clusters[0].resolvers[0].dns.services.F_/x.prot: unknown key; did you mean "port"?`,
			`farcall.yaml:15: clusters[0].resolvers[0].dns.services.F_/x.relayPort: 0 is not in 1 to 65535`,
			`farcall.yaml:15: clusters[0].resolvers[0].dns.services.F_/x: address records state no port: write {name: f., relayPort: 50002} for an agent or sidecar there, or port: for the application's own`,
			`farcall.yaml:16: clusters[0].resolvers[1].dns.services: is missing: want at least one name, for example services: {billing: _billing._tcp.example.com.}`}},
	{name: "kubernetes, mdns and clusters via agents",
		text: okSynchronizer + `clusters:
- {name: a, via: agent}
- {name: b, via: agents, resolvers: [file: {path: x}]}
- name: c
  resolvers:
  - kubernetes: {context: x, watchNamespaces: [a, A, a], exportNamespaces: ["["], link: x}
  - mdns: {interfaces: [eth0, "", "a/b", eth0], ttl: 1s}
  - {mdns: {}, dns: {}}
`,
		want: []string{
			`farcall.yaml:3: clusters[0].via: unknown word "agent": want "agents"; did you mean "agents"?`,
			`farcall.yaml:4: clusters[1].resolvers: stands beside clusters[1].via: the registries of a cluster that is read via its agents stand in the agents' configurations`,
			`farcall.yaml:7: clusters[2].resolvers[0].kubernetes.context: stands without clusters[2].resolvers[0].kubernetes.kubeconfig: the credentials that a pod is given have no contexts`,
			`farcall.yaml:7: clusters[2].resolvers[0].kubernetes.watchNamespaces[1]: "A" is not a namespace of Kubernetes: want lower-case letters, digits and inner dashes`,
			`farcall.yaml:7: clusters[2].resolvers[0].kubernetes.watchNamespaces[2]: a is listed twice`,
			`farcall.yaml:7: clusters[2].resolvers[0].kubernetes.exportNamespaces[0]: "[" is not a pattern: want a service name with * and ? for what is left open`,
			`farcall.yaml:7: clusters[2].resolvers[0].kubernetes.link: is for the agents of a cluster that is read via its agents; a synchronizer reads this registry itself`,
			`farcall.yaml:8: clusters[2].resolvers[1].mdns.ttl: 1s is not in 5s to 120s`,
			`farcall.yaml:8: clusters[2].resolvers[1].mdns.interfaces[1]: "" is not the name of a network interface, such as eth0`,
			`farcall.yaml:8: clusters[2].resolvers[1].mdns.interfaces[2]: "a/b" is not the name of a network interface, such as eth0`,
			`farcall.yaml:8: clusters[2].resolvers[1].mdns.interfaces[3]: eth0 is listed twice`,
			`farcall.yaml:9: clusters[2].resolvers[2]: has both dns and mdns: want one kind; write a list entry for each`}},
	{name: "keys of later versions for an agent", agent: true,
		text: okAgent + "admin: {}\n",
		want: []string{
			"farcall.yaml:4: admin: not supported by this version"}},
	{name: "a key set twice", text: "federation: a\nfederation: b\nhttp:\n  listen: 127.0.0.1:1\n  listen: 127.0.0.1:2\n", want: []string{
		"farcall.yaml:2: federation: set twice, first in line 1",
		"farcall.yaml:5: http.listen: set twice, first in line 4"}},

	{name: "wrong types",
		text: "federation: 5\nlisten: [x]\ninsecure: yes\nhttp: 7701\nstore: embedded\nclusters: {name: east}\nguard: {hold: 60}\n",
		want: []string{
			"farcall.yaml:1: federation: want text, got a number: put it in quotes",
			"farcall.yaml:2: listen: want text, got a list",
			"farcall.yaml:3: insecure: want true or false, got text",
			"farcall.yaml:4: http: want a mapping of keys to values, got a number",
			"farcall.yaml:5: store: want a mapping of keys to values, got text",
			"farcall.yaml:6: clusters: want a list, got a mapping",
			"farcall.yaml:7: guard.hold: want a duration such as 500ms or 60s, got a number"}},
	{name: "wrong types for an agent", agent: true,
		text: "cluster:\nnode: {}\nsynchronizers: 127.0.0.1:7700\napps: [{id: true, port: http, register: 1}, cart]\nresolvers: [consul: x]\ninternal: {insecure: {}}\nstrategy: 2020-01-01\n",
		want: []string{
			"farcall.yaml:1: cluster: has no value: write one, or leave the key out",
			"farcall.yaml:2: node: want text, got a mapping",
			"farcall.yaml:3: synchronizers: want a list, got text",
			"farcall.yaml:4: apps[0].id: want text, got true or false: put it in quotes",
			"farcall.yaml:4: apps[0].port: want a whole number, got text",
			"farcall.yaml:4: apps[0].register: want true or false, got a number",
			"farcall.yaml:4: apps[1]: want a mapping of keys to values, got text",
			"farcall.yaml:5: resolvers[0].consul: want a mapping of keys to values, got text",
			"farcall.yaml:6: internal.insecure: want true or false, got a mapping",
			"farcall.yaml:7: strategy: want text, got a date: put it in quotes"}},
	{name: "labels of a wrong type", text: okSynchronizer + "clusters: [{name: a, labels: {x: 1, y: [z]}, resolvers: [file: {path: p, namespaces: []}]}]\n", want: []string{
		"farcall.yaml:2: clusters[0].labels.x: want text, got a number: put it in quotes",
		"farcall.yaml:2: clusters[0].labels.y: want text, got a list",
		"farcall.yaml:2: clusters[0].resolvers[0].file.namespaces: want a mapping of keys to values, got a list"}},
	{name: "aliases and merge keys", text: "federation: &x demo\nlisten: *x\nhttp: &l {listen: 127.0.0.1:1}\nstore:\n  <<: *l\n", want: []string{
		"farcall.yaml:2: listen: YAML aliases are not taken: write the value itself",
		"farcall.yaml:5: store: YAML merge keys are not taken: write the keys themselves"}},

	{name: "bad addresses",
		text: okSynchronizer + "listen: 127.0.0.1\nhttp: {listen: '7701'}\nstore: {etcd: {endpoints: ['ftp://x:1', 'http://x', 'etcd', 'http://u:p@x:1', 'https://x:1/path', ' a:1', ':2379']}}\n",
		want: []string{
			`farcall.yaml:2: listen: "127.0.0.1" is not host:port; did you mean "127.0.0.1:7700"?`,
			`farcall.yaml:3: http.listen: "7701" is not host:port; did you mean "127.0.0.1:7701"?`,
			`farcall.yaml:4: store.etcd.endpoints[0]: scheme "ftp" is not taken: want host:port, http://host:port or https://host:port`,
			`farcall.yaml:4: store.etcd.endpoints[1]: "x" is not host:port; did you mean "x:2379"?`,
			`farcall.yaml:4: store.etcd.endpoints[2]: "etcd" is not host:port; did you mean "etcd:2379"?`,
			"farcall.yaml:4: store.etcd.endpoints[3]: a user or password in the address is not taken",
			`farcall.yaml:4: store.etcd.endpoints[4]: "https://x:1/path" says more than scheme and host:port`,
			`farcall.yaml:4: store.etcd.endpoints[5]: " a" is neither an IP address nor a host name`,
			`farcall.yaml:4: store.etcd.endpoints[6]: ":2379" has no host; did you mean "127.0.0.1:2379"?`}},
	{name: "bad addresses for an agent", agent: true,
		text: "cluster: c\nnode: n\nsynchronizers: ['http://127.0.0.1:7700', '::1:7700', '::1', 'x y', 'localhost:0', 'localhost:7700', 'localhost:7700', '0.0.0.0:7700']\nhttp: {listen: 'unix:/run/x'}\ngrpc: {listen: 'localhost:70000'}\nmetrics: {listen: 'unix://'}\ninternal: {listen: 'unix:///x'}\n",
		want: []string{
			`farcall.yaml:3: synchronizers[0]: "http://127.0.0.1:7700" is not host:port; did you mean "127.0.0.1:7700"?`,
			`farcall.yaml:3: synchronizers[1]: "::1:7700" is not host:port; did you mean "[::1]:7700"?`,
			`farcall.yaml:3: synchronizers[2]: "::1" is not host:port; did you mean "[::1]:7700"?`,
			`farcall.yaml:3: synchronizers[3]: "x y" is not host:port`,
			`farcall.yaml:3: synchronizers[4]: "localhost:0": port "0" is not in 1 to 65535`,
			"farcall.yaml:3: synchronizers[6]: localhost:7700 is listed twice",
			"farcall.yaml:3: synchronizers[7]: 0.0.0.0 is the unspecified address",
			`farcall.yaml:4: http.listen: "unix:/run/x": want unix:///path; did you mean "unix:///run/x"?`,
			`farcall.yaml:5: grpc.listen: "localhost:70000": port "70000" is not in 0 to 65535`,
			`farcall.yaml:6: metrics.listen: "unix://" names no file: want unix:///path`,
			`farcall.yaml:7: internal.listen: "unix:///x": a unix socket is not possible here: want host:port`}},
	{name: "bad advertise", agent: true, text: okAgent + "internal: {advertise: '10.0.0.1:0'}\n", want: []string{
		`farcall.yaml:4: internal.advertise: "10.0.0.1:0": port "0" is not in 1 to 65535: want host or host:port`}},
	{name: "an unspecified advertise", agent: true, text: okAgent + "internal: {advertise: 0.0.0.0}\n", want: []string{
		"farcall.yaml:4: internal.advertise: 0.0.0.0 is the unspecified address"}},

	{name: "plaintext for everybody", text: okSynchronizer + "listen: 0.0.0.0:7700\nhttp: {listen: ':7701'}\n", want: []string{
		`farcall.yaml:2: listen: 0.0.0.0:7700 is plaintext and not loopback: anybody who reaches it can read and speak; give this process an identity with tls: {cert, key, ca} at the top level (farcall certs makes one), or to allow that, write "insecure: true" at the top level`,
		`farcall.yaml:3: http.listen: :7701 is plaintext and not loopback: anybody who reaches it can read and speak; give it a certificate with tls: {cert, key} in the "http" block, or to allow that, write "insecure: true" in the "http" block`}},
	{name: "half an identity, half a certificate", text: okSynchronizer + "listen: 0.0.0.0:7700\ninsecure: true\nhttp: {listen: ':7701', tls: {}, insecure: true}\ntls: {cert: x}\n", want: []string{
		"farcall.yaml:3: insecure: stands beside tls in line 5, with which listen is not plaintext: leave insecure out",
		"farcall.yaml:4: http.tls.cert: is missing: want the PEM file of the listener's certificate",
		"farcall.yaml:4: http.tls.key: is missing: want the PEM file of that certificate's key",
		"farcall.yaml:4: http.insecure: stands beside http.tls, with which the listener is not plaintext: leave insecure out",
		"farcall.yaml:5: tls.key: is missing: want the PEM file of that certificate's key",
		"farcall.yaml:5: tls.ca: is missing: want the PEM file of the authorities to believe: the system's do not sign identities"}},
	{name: "two sources of an identity", text: okSynchronizer + "tls: {cert: x, workloadAPI: 'unix:///run/x'}\n", want: []string{
		"farcall.yaml:2: tls.workloadAPI: stands beside the files of an identity: want cert, key and ca, or workloadAPI"}},
	{name: "no socket", text: okSynchronizer + "tls: {workloadAPI: 127.0.0.1:1}\n", want: []string{
		`farcall.yaml:2: tls.workloadAPI: "127.0.0.1:1": want the socket of a SPIFFE Workload API, for example unix:///run/spire/sockets/agent.sock`}},
	{name: "an identity that no agent can have", agent: true,
		text: "cluster: east\nnode: a b\nsynchronizers: [127.0.0.1:7700]\ninternal: {tls: {}, insecure: true}\ntls: {cert: c, key: k, ca: a, plaintextRelays: [West, west, west]}\n",
		want: []string{
			`farcall.yaml:2: node: stands in this agent's identity, since there is a tls in line 5: "a b" cannot stand in a SPIFFE identity: want letters, digits, dots, dashes and underscores`,
			"farcall.yaml:4: internal.tls: unknown key; the keys here are advertise, insecure, listen",
			"farcall.yaml:4: internal.insecure: stands beside tls in line 5, with which internal.listen is not plaintext: leave insecure out",
			`farcall.yaml:5: tls.plaintextRelays[0]: cluster name "West": want lower-case letters, digits and inner dashes (RFC 1123 label)`,
			"farcall.yaml:5: tls.plaintextRelays[2]: west is listed twice"}},
	{name: "plaintext for everybody at an agent", agent: true,
		text: okAgent + "internal: {listen: '10.0.0.1:50002'}\nhttp: {listen: '[::]:3500', insecure: false}\ngrpc: {listen: host:1}\nmetrics: {listen: '0.0.0.0:0', insecure: true}\n",
		want: []string{
			`farcall.yaml:4: internal.listen: 10.0.0.1:50002 is plaintext and not loopback: anybody who reaches it can read and speak; give this process an identity with tls: {cert, key, ca} at the top level (farcall certs makes one), or to allow that, write "insecure: true" in the "internal" block`,
			`farcall.yaml:5: http.listen: [::]:3500 is plaintext and not loopback: anybody who reaches it can read and speak; give it a certificate with tls: {cert, key} in the "http" block, or to allow that, write "insecure: true" in the "http" block`,
			`farcall.yaml:6: grpc.listen: host:1 is plaintext and not loopback: anybody who reaches it can read and speak; give it a certificate with tls: {cert, key} in the "grpc" block, or to allow that, write "insecure: true" in the "grpc" block`}},
	{name: "loopback internal, far synchronizer", agent: true, text: "cluster: c\nnode: n\nsynchronizers: [127.0.0.1:1, 10.0.0.1:7700]\n", want: []string{
		"farcall.yaml:1: internal.listen: 127.0.0.1:0 is loopback but synchronizers[1] (10.0.0.1:7700) is not: agents of other machines could not reach this one; set internal.listen to an address that they reach"}},
	{name: "loopback advertise, far synchronizer", agent: true, text: "cluster: c\nnode: n\nsynchronizers: [10.0.0.1:7700]\ninternal:\n  listen: 0.0.0.0:50002\n  insecure: true\n  advertise: localhost:50002\n", want: []string{
		"farcall.yaml:7: internal.advertise: localhost:50002 is loopback but synchronizers[0] (10.0.0.1:7700) is not: agents of other machines could not reach this one"}},

	{name: "names", text: "federation: The_Demo\nclusters:\n- name: east\n  resolvers: [file: {path: a}]\n- name: east\n  resolvers: [file: {path: b}]\n- name: '-'\n  resolvers: [file: {path: c}]\n- resolvers: [file: {path: d}]\n- name: ''\n  resolvers: []\n", want: []string{
		`farcall.yaml:1: federation: "The_Demo": want lower-case letters, digits and inner dashes (RFC 1123 label); did you mean "the-demo"?`,
		`farcall.yaml:5: clusters[1].name: "east" is the name of clusters[0] in line 3 as well: cluster names are unique`,
		`farcall.yaml:7: clusters[2].name: "-": want lower-case letters, digits and inner dashes (RFC 1123 label)`,
		"farcall.yaml:9: clusters[3].name: is missing: write, for example, name: east",
		"farcall.yaml:10: clusters[4].name: is empty: write, for example, name: east",
		"farcall.yaml:11: clusters[4].resolvers: is empty: a cluster needs at least one registry to read, for example resolvers: [{file: {path: ./services.yaml}}]; or via: agents where only its own agents can read them"}},
	{name: "a node's name", agent: true, text: "cluster: c\nnode: \"a\\tb\"\nsynchronizers: [localhost:1]\n", want: []string{
		"farcall.yaml:2: node: has a control character at byte 1"}},

	{name: "resolvers", agent: true,
		text: okAgent + "resolvers:\n- consul: {}\n  file: {path: x}\n- {}\n-\n- file: {}\n- consul:\n    address: http://x:8500\n    token: a\n    tokenFile: b\n    tls: {cert: c}\n    daprPortKey: ''\n- file: {path: p, namespace: a, namespaces: {b: c}, include: ['[']}\n- file: {path: p, namespaces: {b: ''}, exclude: ['']}\n",
		want: []string{
			"farcall.yaml:5: resolvers[0]: has both consul and file: want one kind; write a list entry for each",
			"farcall.yaml:7: resolvers[1]: names no registry: want one of consul, dns, file, kubernetes, mdns",
			"farcall.yaml:8: resolvers[2]: names no registry: want one of consul, dns, file, kubernetes, mdns",
			"farcall.yaml:9: resolvers[3].file.path: is missing: want the path of a file of services",
			"farcall.yaml:11: resolvers[4].consul.address: http://x:8500 is plaintext, but resolvers[4].consul.tls in line 14 asks for TLS: write https://, or leave the scheme out",
			"farcall.yaml:13: resolvers[4].consul.tokenFile: stands beside resolvers[4].consul.token: want one of them",
			"farcall.yaml:14: resolvers[4].consul.tls.cert: stands without resolvers[4].consul.tls.key: a certificate needs its key",
			"farcall.yaml:15: resolvers[4].consul.daprPortKey: is empty: want the metadata key of the relay's port, DAPR_PORT by Dapr's convention",
			"farcall.yaml:16: resolvers[5].file.namespaces: stands beside resolvers[5].file.namespace: want one of them",
			`farcall.yaml:16: resolvers[5].file.include[0]: "[" is not a pattern: want a service name with * and ? for what is left open`,
			"farcall.yaml:17: resolvers[6].file.namespaces.b: is empty",
			`farcall.yaml:17: resolvers[6].file.exclude[0]: "" is not a pattern: want a service name with * and ? for what is left open`}},

	{name: "stores", text: okSynchronizer + "store:\n  embedded: {}\n  etcd: {}\n", want: []string{
		"farcall.yaml:2: store: has both embedded and etcd: want one"}},
	{name: "no endpoints", text: okSynchronizer + "store:\n  etcd:\n    tls: {key: k}\n", want: []string{
		"farcall.yaml:3: store.etcd.endpoints: is missing: want at least one address, for example endpoints: [127.0.0.1:2379]",
		"farcall.yaml:4: store.etcd.tls.key: stands without store.etcd.tls.cert: a key needs its certificate"}},
	{name: "two data folders", text: okSynchronizer + "dataDir: x\n", want: []string{
		"farcall.yaml:2: dataDir: is for an external store; the embedded one keeps everything in store.embedded.dataDir"}},
	{name: "no data folder", text: okSynchronizer + "store: {embedded: {dataDir: ''}}\n", want: []string{
		"farcall.yaml:2: store.embedded.dataDir: is empty: want a folder, for example ./farcall-data"}},
	{name: "an unknown store", text: okSynchronizer + "store: {consul: {}}\n", want: []string{
		"farcall.yaml:2: store.consul: unknown key; the keys here are embedded, etcd"}},
	{name: "a hold of nothing", text: okSynchronizer + "guard: {hold: 0s}\n", want: []string{
		"farcall.yaml:2: guard.hold: 0s is not a time to hold for: want more than 0s, for example 60s"}},

	{name: "words", agent: true, text: okAgent + "accessLog: error\napps:\n- {id: a, protocol: HTTP}\n- {id: b, protocol: htps}\n- {id: c, protocol: quic}\nstrategy: local-frist\n", want: []string{
		`farcall.yaml:4: accessLog: unknown word "error": want "off", "errors" or "all"; did you mean "errors"?`,
		`farcall.yaml:6: apps[0].protocol: unknown word "HTTP": want "http", "https", "h2c", "grpc" or "dapr"; did you mean "http"?`,
		`farcall.yaml:7: apps[1].protocol: unknown word "htps": want "http", "https", "h2c", "grpc" or "dapr"; did you mean "https"?`,
		`farcall.yaml:8: apps[2].protocol: unknown word "quic": want "http", "https", "h2c", "grpc" or "dapr"`,
		`farcall.yaml:9: strategy: unknown strategy "local-frist": did you mean "local-first"? Accepted are local-first, external-first, broadcast, local-only, external-only, any; also active-active (any), none (any), local (local-first), remote (external-first)`}},
	{name: "apps", agent: true,
		text: okAgent + "apps:\n- {id: a, port: 1}\n- {id: a, port: 2}\n- {port: 3}\n- {id: b, port: 70000}\n- {id: c, port: 0}\n- {id: d, register: true, namespace: ''}\n",
		want: []string{
			"farcall.yaml:6: apps[1].id: default/a is apps[0] in line 5 as well: an application is listed once",
			"farcall.yaml:7: apps[2].id: is missing: want the app-id",
			"farcall.yaml:8: apps[3].port: 70000 is not in 1 to 65535",
			"farcall.yaml:9: apps[4].port: 0 is not in 1 to 65535",
			"farcall.yaml:10: apps[5].namespace: is empty",
			"farcall.yaml:10: apps[5].port: is missing: register: true needs the application's port",
			"farcall.yaml:10: apps[5].register: no registry under resolvers takes registrations: add a consul or an mdns, or leave register out"}},
	{name: "tokens of applications", agent: true,
		text: okAgent + `apps:
- {id: a, token: hush-1}
- {id: b, token: hush-1}
- {id: c, token: ""}
- {id: d, token: "hush\nhush"}
- {id: e, token: " hush"}
- {id: f, token: hush, tokenFile: /run/token}
- {id: g, tokenFile: ""}
- {id: h, token: 12345}
- {id: i, tokenfile: x}
`,
		want: []string{
			"farcall.yaml:6: apps[1].token: is that of apps[0] in line 5 as well: an application is known by its token",
			"farcall.yaml:7: apps[2].token: is empty: want a token",
			"farcall.yaml:8: apps[3].token: holds a character that no header takes: want printable ASCII",
			"farcall.yaml:9: apps[4].token: begins or ends with a space, which no header keeps",
			"farcall.yaml:10: apps[5].tokenFile: stands beside apps[5].token: want one of them",
			"farcall.yaml:11: apps[6].tokenFile: is empty: want the path of a file that holds the token",
			"farcall.yaml:12: apps[7].token: want text, got a number: put it in quotes",
			`farcall.yaml:13: apps[8].tokenfile: unknown key; did you mean "tokenFile"?`}},
	{name: "TLS with applications", agent: true,
		text: okAgent + `apps:
- {id: a, tls: {ca: x}}
- {id: b, protocol: h2c, tls: {}}
- {id: c, protocol: dapr, tls: {insecure: true}}
- {id: d, protocol: https, tls: {cert: x}}
- {id: e, protocol: grpc, tls: {key: x, serverName: "a b"}}
- {id: f, protocol: https, tls: {ca: x, insecure: true}}
- {id: g, protocol: https, tls: {servername: x}}
- {id: h, protocol: https, insecure: true}
`,
		want: []string{
			"farcall.yaml:5: apps[0].tls: stands beside protocol http, which is plaintext: write protocol: https, or leave tls out",
			"farcall.yaml:6: apps[1].tls: stands beside protocol h2c, which is plaintext: write protocol: https, which speaks HTTP/2 as well, or leave tls out",
			"farcall.yaml:7: apps[2].tls: stands beside protocol dapr: the sidecar is called in plaintext, and speaks TLS with its application itself; write protocol: https to call the application, or leave tls out",
			"farcall.yaml:8: apps[3].tls.cert: stands without apps[3].tls.key: a certificate needs its key",
			"farcall.yaml:9: apps[4].tls.key: stands without apps[4].tls.cert: a key needs its certificate",
			`farcall.yaml:9: apps[4].tls.serverName: "a b" is neither an IP address nor a host name`,
			"farcall.yaml:10: apps[5].tls.insecure: stands beside apps[5].tls.ca: want one of them, since insecure: true takes any certificate",
			`farcall.yaml:11: apps[6].tls.servername: unknown key; did you mean "serverName"?`,
			`farcall.yaml:12: apps[7].insecure: unknown key here; it goes inside "tls"`}},
}

func TestMistakesAreToldAllAtOnce(t *testing.T) {
	for _, c := range mistakes {
		t.Run(c.name, func(t *testing.T) {
			var err error
			if c.agent {
				_, err = ParseAgent("farcall.yaml", []byte(c.text))
			} else {
				_, err = ParseSynchronizer("farcall.yaml", []byte(c.text))
			}
			if want := strings.Join(c.want, "\n"); err == nil || err.Error() != want {
				t.Errorf("file\n%s\ngot\n%v\nwant\n%s", c.text, err, want)
			}
			var one *Error
			if err != nil && (!errors.As(err, &one) || one.File != "farcall.yaml") {
				t.Errorf("the error holds no *Error: %v", err)
			}
		})
	}
}

// An alias bomb costs no more than its text: aliases are never followed.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("federation: f\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	b.WriteString("clusters: *a29\nhttp: &self {listen: *self}\n")
	_, err := ParseSynchronizer("f.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "clusters: YAML aliases are not taken") {
		t.Errorf("error %v", err)
	}
}

// A file of too many values ends in one error, not in as many as it has values.
func TestTooManyValues(t *testing.T) {
	text := "cluster: c\nsynchronizers: [" + strings.Repeat("0,", maxValues) + "]"
	_, err := ParseAgent("f.yaml", []byte(text))
	if err == nil || err.Error() != "f.yaml:1: more than 100000 values: this is no configuration" {
		t.Fatalf("error %.200s", err)
	}
}
