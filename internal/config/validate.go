package config

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/nearest"
	"github.com/farcall/farcall/strategy"
)

// Words that a key may have, canonical ones first.
var (
	protocols  = []string{"http", "https", "h2c", "grpc", "dapr"}
	accessLogs = []string{"off", "errors", "all"}
)

// validator checks what a struct says, after its shape was right, and fills in the defaults
// that depend on other keys.
type validator struct {
	*report
	checks []Check
}

func (v *validator) synchronizer(s *Synchronizer) {
	v.clusterName("federation", s.Federation, "federation: demo")
	v.identity(s.TLS)
	v.shared("", s.Listen, s.Insecure, s.TLS != nil, "7700")
	v.listener("http", s.HTTP, "7701", true)
	v.store(s)
	v.guard(s.Guard)

	names := map[string]string{}
	for i, c := range s.Clusters {
		at := fmt.Sprintf("clusters[%d]", i)
		v.clusterName(at+".name", c.Name, "name: east")
		if first, ok := names[c.Name]; ok && c.Name != "" {
			v.errorf(at+".name", "%q is the name of %s in line %d as well: cluster names are unique", c.Name, first, v.lines[first])
		} else {
			names[c.Name] = at
		}
		v.sources(at, c)
	}
}

// sources checks where a cluster's lists come from.
func (v *validator) sources(at string, c Cluster) {
	if _, written := v.lines[at+".via"]; written {
		v.word(at+".via", c.Via, []string{ViaAgents})
		if len(c.Resolvers) > 0 {
			v.errorf(at+".resolvers", "stands beside %s.via: the registries of a cluster that is read via its agents stand in the agents' configurations", at)
		}
		return
	}
	v.missing(at, "resolvers", len(c.Resolvers) == 0, "a cluster needs at least one registry to read, for example resolvers: [{file: {path: ./services.yaml}}]; or via: agents where only its own agents can read them")
	v.resolvers(at+".resolvers", c.Resolvers)
	for i, r := range c.Resolvers {
		if r.Scope().Link != "" {
			v.errorf(fmt.Sprintf("%s.resolvers[%d].%s.link", at, i, r.Kind()), "is for the agents of a cluster that is read via its agents; a synchronizer reads this registry itself")
		}
	}
}

func (v *validator) agent(a *Agent) {
	v.clusterName("cluster", a.Cluster, "cluster: east")
	v.node(a)
	v.agentIdentity(a)
	v.missing("", "synchronizers", len(a.Synchronizers) == 0, "want at least one address, for example synchronizers: [127.0.0.1:7700]")
	for i, s := range a.Synchronizers {
		at := fmt.Sprintf("synchronizers[%d]", i)
		if err := checkDial(s, "7700"); err != nil {
			v.errorf(at, "%v", err)
		} else if slices.Index(a.Synchronizers, s) < i {
			v.errorf(at, "%s is listed twice", s)
		}
	}
	v.resolvers("resolvers", a.Resolvers)
	v.internal(a)
	v.listener("http", a.HTTP, "3500", true)
	v.listener("grpc", a.GRPC, "50001", true)
	v.listener("metrics", a.Metrics, "9464", true)
	v.dapr(a.Dapr)
	v.apps(a)
	v.strategy(a)
	v.localPolicy(a)
	v.word("accessLog", a.AccessLog, accessLogs)
	v.tracing(a.Tracing)
	v.guard(a.Guard)
}

// missing notes a key that is not there, or not filled, unless a mistake that was noted already
// explains it.
func (v *validator) missing(block, key string, is bool, want string) {
	if !is {
		return
	}
	at := child(block, key)
	if _, ok := v.lines[at]; ok {
		v.errorf(at, "is empty: %s", want)
		return
	}
	v.errorf(at, "is missing: %s", want)
}

func (v *validator) clusterName(at, name, example string) {
	if name == "" {
		block := parent(at)
		v.missing(block, strings.TrimPrefix(at[len(block):], "."), true, "write, for example, "+example)
		return
	}
	err := catalog.CheckClusterName(name)
	if err == nil {
		return
	}
	problem := strings.TrimPrefix(err.Error(), "cluster name ")
	mended := strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(strings.ToLower(strings.TrimSpace(name)))
	if catalog.CheckClusterName(mended) == nil {
		problem += fmt.Sprintf("; did you mean %q?", mended)
	}
	v.errorf(at, "%s", problem)
}

// node fills in and checks the node's name.
func (v *validator) node(a *Agent) {
	if a.Node == "" && !v.bad["node"] {
		host, err := os.Hostname()
		if err != nil {
			v.errorf("node", "is missing, and the host's name cannot be read: %v", err)
			return
		}
		a.Node = host
	}
	if err := checkName(a.Node); a.Node != "" && err != nil {
		v.errorf("node", "%v", err)
	}
}

// checkName holds a word to the rules of catalog names.
func checkName(s string) error {
	err := catalog.Name{Namespace: catalog.DefaultNamespace, Service: s}.Check()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "service "))
}

// listener checks one listener for those who have no identity. Block is the key of its block.
func (v *validator) listener(block string, l Listener, port string, unix bool) {
	at := child(block, "listen")
	v.serverTLS(block, l)
	if err := checkListen(l.Listen, port, unix); err != nil {
		v.errorf(at, "%v", err)
		return
	}
	if l.TLS == nil {
		v.plaintext(at, block, l.Listen, l.Insecure, fmt.Sprintf("give it a certificate with tls: {cert, key} in the %q block", block))
	}
}

func (v *validator) store(s *Synchronizer) {
	switch st := &s.Store; {
	case st.Embedded != nil && st.Etcd != nil:
		v.errorf("store", "has both embedded and etcd: want one")
	case st.Etcd != nil:
		v.etcd(st.Etcd)
	case v.bad["store"] || v.bad[child("store", "*")]:
	default:
		if st.Embedded == nil {
			st.Embedded = &Embedded{}
			setDefaultsOf(st.Embedded)
		}
		v.missing("store.embedded", "dataDir", st.Embedded.DataDir == "", "want a folder, for example ./farcall-data")
		if s.DataDir != "" {
			v.errorf("dataDir", "is for an external store; the embedded one keeps everything in store.embedded.dataDir")
		}
	}
}

func (v *validator) etcd(e *Etcd) {
	v.missing("store.etcd", "endpoints", len(e.Endpoints) == 0, "want at least one address, for example endpoints: [127.0.0.1:2379]")
	for i, s := range e.Endpoints {
		v.endpoint(fmt.Sprintf("store.etcd.endpoints[%d]", i), s, "2379", e.TLS, "store.etcd.tls")
	}
	v.tls("store.etcd.tls", e.TLS)
}

// endpoint checks the address of a server that is spoken to over HTTP or HTTP/2.
func (v *validator) endpoint(at, address, port string, tls *TLS, tlsAt string) {
	scheme, err := checkEndpoint(address, port)
	switch {
	case err != nil:
		v.errorf(at, "%v", err)
	case scheme == "http" && tls != nil:
		v.errorf(at, "%s is plaintext, but %s in line %d asks for TLS: write https://, or leave the scheme out", address, tlsAt, v.lines[tlsAt])
	}
}

func (v *validator) tls(at string, t *TLS) {
	switch {
	case t == nil:
	case t.Cert != "" && t.Key == "":
		v.errorf(at+".cert", "stands without %s.key: a certificate needs its key", at)
	case t.Key != "" && t.Cert == "":
		v.errorf(at+".key", "stands without %s.cert: a key needs its certificate", at)
	}
}

func (v *validator) resolvers(at string, list []Resolver) {
	for i := range list {
		r, at := &list[i], fmt.Sprintf("%s[%d]", at, i)
		blocks := r.blocks()
		switch {
		case len(blocks) > 1:
			v.errorf(at, "has both %s: want one kind; write a list entry for each", strings.Join(slices.Sorted(maps.Keys(blocks)), " and "))
			continue
		case len(blocks) == 0:
			if !v.bad[child(at, "*")] {
				v.errorf(at, "names no registry: want one of %s", strings.Join(kinds, ", "))
			}
			continue
		}
		at += "." + r.Kind()
		switch {
		case r.Consul != nil:
			v.consul(at, r.Consul)
		case r.DNS != nil:
			v.dns(at, r.DNS)
		case r.File != nil:
			v.missing(at, "path", r.File.Path == "", "want the path of a file of services")
		case r.Kubernetes != nil:
			v.kubernetes(at, r.Kubernetes)
		case r.MDNS != nil:
			v.mdns(at, r.MDNS)
		}
		v.scope(at, blocks[r.Kind()])
		v.check(at, *r)
	}
}

// check asks the registry's own room, unless a mistake in the block is known already, from which
// others would follow.
func (v *validator) check(at string, r Resolver) {
	if slices.ContainsFunc(v.errs, func(e *Error) bool { return e.Path == at || strings.HasPrefix(e.Path, at+".") }) {
		return
	}
	for _, check := range v.checks {
		err := check(r)
		list := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			list = joined.Unwrap()
		}
		for _, e := range list {
			if e != nil {
				v.add(v.lines[at], at, "%v", e)
			}
		}
	}
}

func (v *validator) consul(at string, c *Consul) {
	v.endpoint(at+".address", c.Address, "8500", c.TLS, at+".tls")
	v.tls(at+".tls", c.TLS)
	if c.Token != "" && c.TokenFile != "" {
		v.errorf(at+".tokenFile", "stands beside %s.token: want one of them", at)
	}
	v.missing(at, "daprPortKey", c.DaprPortKey == "", "want the metadata key of the relay's port, DAPR_PORT by Dapr's convention")
}

func (v *validator) kubernetes(at string, k *Kubernetes) {
	if k.Context != "" && k.Kubeconfig == "" {
		v.errorf(at+".context", "stands without %s.kubeconfig: the credentials that a pod is given have no contexts", at)
	}
	for i, ns := range k.WatchNamespaces {
		at := fmt.Sprintf("%s.watchNamespaces[%d]", at, i)
		// A namespace is an RFC 1123 label, as the name of a cluster is.
		if err := catalog.CheckClusterName(ns); err != nil {
			v.errorf(at, "%q is not a namespace of Kubernetes: want lower-case letters, digits and inner dashes", ns)
		} else if slices.Index(k.WatchNamespaces, ns) < i {
			v.errorf(at, "%s is listed twice", ns)
		}
	}
	v.patterns(at+".exportNamespaces", k.ExportNamespaces)
}

func (v *validator) mdns(at string, m *MDNS) {
	if m.TTL < 5*time.Second || m.TTL > 2*time.Minute {
		v.errorf(at+".ttl", "%s is not in 5s to 120s", m.TTL)
	}
	v.interfaces(at+".interfaces", m.Interfaces)
}

func (v *validator) scope(at string, s *Scope) {
	switch {
	case s.Namespace != "" && len(s.Namespaces) > 0:
		v.errorf(at+".namespaces", "stands beside %s.namespace: want one of them", at)
	case s.Namespace != "":
		v.namespace(at+".namespace", s.Namespace)
	case len(s.Namespaces) == 0:
		s.Namespace = catalog.DefaultNamespace
	}
	for _, theirs := range slices.Sorted(maps.Keys(s.Namespaces)) {
		v.namespace(child(at+".namespaces", theirs), s.Namespaces[theirs])
	}
	v.patterns(at+".include", s.Include)
	v.patterns(at+".exclude", s.Exclude)
	if _, written := v.lines[at+".link"]; written {
		if err := checkName(s.Link); err != nil {
			v.errorf(at+".link", "%v", err)
		}
	}
}

func (v *validator) patterns(at string, patterns []string) {
	for i, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			v.errorf(fmt.Sprintf("%s[%d]", at, i), "%q is not a pattern: want a service name with * and ? for what is left open", p)
		}
	}
}

func (v *validator) namespace(at, ns string) {
	if err := checkName(ns); err != nil {
		v.errorf(at, "%v", err)
	}
}

func (v *validator) internal(a *Agent) {
	in := a.Internal
	if !v.shared("internal", in.Listen, in.Insecure, a.TLS != nil, "50002") {
		return
	}
	if in.Advertise != "" {
		if err := checkAdvertise(in.Advertise); err != nil {
			v.errorf("internal.advertise", "%v", err)
			return
		}
	}
	i := slices.IndexFunc(a.Synchronizers, func(s string) bool {
		return checkDial(s, "7700") == nil && !catalog.IsLoopback(s)
	})
	if i < 0 {
		return
	}
	far := fmt.Sprintf("synchronizers[%d] (%s)", i, a.Synchronizers[i])
	if catalog.IsLoopback(in.Listen) {
		v.errorf("internal.listen", "%s is loopback but %s is not: agents of other machines could not reach this one; set internal.listen to an address that they reach", in.Listen, far)
	} else if in.Advertise != "" && catalog.IsLoopback(in.Advertise) {
		v.errorf("internal.advertise", "%s is loopback but %s is not: agents of other machines could not reach this one", in.Advertise, far)
	}
}

// strategy puts the agent's strategy into its canonical spelling. A key that is left out stays
// empty, so that the agent can tell its default from a choice.
func (v *validator) strategy(a *Agent) {
	if _, written := v.lines["strategy"]; !written {
		return
	}
	kind, err := strategy.Parse(a.Strategy)
	if err != nil {
		v.errorf("strategy", "%v", err)
		return
	}
	a.Strategy = string(kind)
}

// word holds a value to a list of words, spelt exactly.
func (v *validator) word(at, word string, words []string) {
	switch mended, near := nearest.Word(word, words); {
	case slices.Contains(words, word):
	case near:
		v.errorf(at, "unknown word %q: want %s; did you mean %q?", word, nearest.Either(words), mended)
	default:
		v.errorf(at, "unknown word %q: want %s", word, nearest.Either(words))
	}
}

func (v *validator) guard(g Guard) {
	if g.Hold <= 0 {
		v.errorf("guard.hold", "%s is not a time to hold for: want more than 0s, for example 60s", g.Hold)
	}
}
