// Package config reads the two daemons' configuration files: strict YAML in, one typed and
// valid struct out, or every mistake at once, each with its file, line and path.
//
// It does not open what a configuration points to (sockets, certificates, token files), it
// does not ask whether anybody answers there, and it runs no goroutines. The
// struct tags are the one list of keys and defaults; docs/configuration.md is tested against
// them.
package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Synchronizer is the configuration of cmd/synchronizer. A value that a Parse or Read function
// returned is complete and valid: defaults are filled in.
type Synchronizer struct {
	// Federation is the name under which the clusters share a store: an RFC 1123 label.
	Federation string `yaml:"federation"`
	// Listen is host:port of the gRPC listener: admin and feed. Port 0 takes a free one.
	Listen string `yaml:"listen" default:"127.0.0.1:7700"`
	// Insecure allows Listen to be plaintext on an address that is not loopback; TLS makes it none.
	Insecure bool `yaml:"insecure,omitempty"`
	// HTTP serves metrics and health.
	HTTP  Listener `yaml:"http" default:"listen=127.0.0.1:7701"`
	Store Store    `yaml:"store"`
	// DataDir is where a synchronizer with an external store keeps what it must remember itself
	// (the highest epochs); empty: nothing on disk. An embedded store has its own.
	DataDir  string    `yaml:"dataDir,omitempty"`
	Clusters []Cluster `yaml:"clusters"`
	Guard    Guard     `yaml:"guard"`
	// TLS is who this synchronizer is; nil: Listen is plaintext.
	TLS *Identity `yaml:"tls,omitempty"`

	_ struct{} `later:"admin"`
}

// Agent is the configuration of cmd/agent. A value that a Parse or Read function returned is
// complete and valid: defaults are filled in.
type Agent struct {
	// Cluster is the cluster that this agent's node is part of: an RFC 1123 label.
	Cluster string `yaml:"cluster"`
	// Node is this machine as the registry names it; by default the host's name.
	Node     string   `yaml:"node"`
	Locality Locality `yaml:"locality,omitempty"`
	// Synchronizers are host:port of the federation's synchronizers, at least one.
	Synchronizers []string `yaml:"synchronizers"`
	// DataDir keeps the last view and the internal port over restarts; empty: nothing on disk.
	DataDir string `yaml:"dataDir,omitempty"`
	// Resolvers read the registries of the agent's own cluster. Without any, the own cluster's
	// list comes from the feed as well.
	Resolvers []Resolver `yaml:"resolvers"`
	// Internal is where peers deliver calls for this node's applications.
	Internal Internal `yaml:"internal"`
	// HTTP and GRPC are what applications of this node call.
	HTTP Listener `yaml:"http" default:"listen=127.0.0.1:3500"`
	GRPC Listener `yaml:"grpc" default:"listen=127.0.0.1:50001"`
	// Dapr is what the Dapr sidecars of this node call; nil: nothing listens for them.
	Dapr *Dapr `yaml:"dapr,omitempty"`
	// Metrics serves metrics and health.
	Metrics Listener `yaml:"metrics" default:"listen=127.0.0.1:9464"`
	Apps    []App    `yaml:"apps"`
	// Strategy is the cluster strategy of this agent's callers where nothing more specific says
	// otherwise, in its canonical spelling; empty: strategy.Default.
	Strategy string `yaml:"strategy,omitempty"`
	// Policy is what else holds for this agent's callers where no policy says otherwise; see Base.
	// Where it states a strategy, Strategy is empty.
	Policy *PolicySettings `yaml:"policy,omitempty"`
	// AccessLog says which calls get a line in the log: off, errors or all.
	AccessLog string `yaml:"accessLog" default:"errors"`
	// Tracing says where the spans of sampled calls go; nil: nowhere.
	Tracing *Tracing `yaml:"tracing,omitempty"`
	Guard   Guard    `yaml:"guard"`
	// TLS is who this agent is; nil: it speaks plaintext with synchronizers and other agents.
	TLS *AgentIdentity `yaml:"tls,omitempty"`

	_ struct{} `later:"admin"`
}

// Cluster is one cluster that a synchronizer gathers.
type Cluster struct {
	// Name is an RFC 1123 label, unique in the federation.
	Name     string            `yaml:"name"`
	Locality Locality          `yaml:"locality,omitempty"`
	Labels   map[string]string `yaml:"labels,omitempty"`
	// Resolvers read the cluster's registries; their lists are joined. Of an instance that two of
	// them list, the first one's record is taken.
	Resolvers []Resolver `yaml:"resolvers"`
	// Via is ViaAgents where the cluster's own agents say what their registries list, because no
	// synchronizer can hear or reach these; there are then no Resolvers.
	Via string `yaml:"via,omitempty"`
}

// ViaAgents is the word for a cluster that is read via its agents.
const ViaAgents = "agents"

// Locality says where a cluster or an agent is; empty fields are unknown.
type Locality struct {
	Region string `yaml:"region,omitempty"`
	Zone   string `yaml:"zone,omitempty"`
}

// Resolver is one registry to read: exactly one of its fields is set.
type Resolver struct {
	Consul     *Consul     `yaml:"consul,omitempty"`
	DNS        *DNS        `yaml:"dns,omitempty"`
	File       *File       `yaml:"file,omitempty"`
	Kubernetes *Kubernetes `yaml:"kubernetes,omitempty"`
	MDNS       *MDNS       `yaml:"mdns,omitempty"`
}

// kinds are the keys of Resolver, in the order in which people are told of them.
var kinds = []string{"consul", "dns", "file", "kubernetes", "mdns"}

// blocks gives the blocks that are set, by their keys: one, in what a Parse or Read function
// returned.
func (r Resolver) blocks() map[string]*Scope {
	set := map[string]*Scope{}
	if r.Consul != nil {
		set["consul"] = &r.Consul.Scope
	}
	if r.DNS != nil {
		set["dns"] = &r.DNS.Scope
	}
	if r.File != nil {
		set["file"] = &r.File.Scope
	}
	if r.Kubernetes != nil {
		set["kubernetes"] = &r.Kubernetes.Scope
	}
	if r.MDNS != nil {
		set["mdns"] = &r.MDNS.Scope
	}
	return set
}

// Kind gives the key of the registry's kind, for example "consul".
func (r Resolver) Kind() string {
	for kind := range r.blocks() {
		return kind
	}
	return ""
}

// Scope gives what every kind of registry says about the services to take from it.
func (r Resolver) Scope() Scope {
	for _, s := range r.blocks() {
		return *s
	}
	return Scope{}
}

// TakesRegistrations reports whether an agent can register applications in the registry.
func (r Resolver) TakesRegistrations() bool { return r.Consul != nil || r.MDNS != nil }

// Scope says which services of a registry are taken, and into which namespace. It stands in the
// block of every kind of resolver.
type Scope struct {
	// Namespace is where services live whose record names none. Exactly one of Namespace and
	// Namespaces is set.
	Namespace string `yaml:"namespace,omitempty"`
	// Namespaces maps the registry's own namespaces to ours; one that is not listed is kept.
	Namespaces map[string]string `yaml:"namespaces,omitempty"`
	// Include and Exclude are patterns, as path.Match reads them, on service names. An empty
	// Include takes all; Exclude wins.
	Include []string `yaml:"include,omitempty"`
	Exclude []string `yaml:"exclude"`
	// Link, at an agent of a cluster that is read via its agents, is a word for what this registry
	// hears: agents with the same word hear the same, and one of them reports it.
	Link string `yaml:"link,omitempty"`
}

// Consul is a Consul agent or server to read, and at an agent to register applications in.
type Consul struct {
	// Address is host:port or an http(s) URL of Consul's HTTP API.
	Address    string `yaml:"address" default:"127.0.0.1:8500"`
	Datacenter string `yaml:"datacenter,omitempty"`
	// Token is the ACL token; TokenFile names a file that holds it. At most one is set.
	Token     Secret `yaml:"token,omitempty"`
	TokenFile string `yaml:"tokenFile,omitempty"`
	// TLS, where it is set, means HTTPS.
	TLS *TLS `yaml:"tls,omitempty"`
	// DaprPortKey is the key in a service's Consul metadata that holds the port of its relay:
	// Dapr's convention, see its Consul name resolution component (daprPortMetaKey).
	DaprPortKey string `yaml:"daprPortKey" default:"DAPR_PORT"`
	Scope       `yaml:",inline" default:"exclude=consul,*-sidecar-proxy"`
}

// DNS is a set of names in the DNS to ask for.
type DNS struct {
	// Servers are host:port, or host for port 53, of the servers to ask: the first one, the next
	// where it fails. Empty: the system's.
	Servers []string `yaml:"servers,omitempty"`
	// Services are the names, at least one, by app-id or namespace/app-id.
	Services map[string]DNSService `yaml:"services"`
	// Timeout is how long one server is waited for, once.
	Timeout time.Duration `yaml:"timeout" default:"1s"`
	// MinTTL and MaxTTL bound how long an answer is believed without asking again.
	MinTTL time.Duration `yaml:"minTTL" default:"1s"`
	MaxTTL time.Duration `yaml:"maxTTL" default:"30s"`
	Scope  `yaml:",inline"`
}

// DNSService is where one service stands in the DNS. In YAML, a plain text is its Name.
type DNSService struct {
	// Name is the full DNS name.
	Name string `yaml:"name" shorthand:"true"`
	// Type is srv or address; empty: srv where the name has the form _service._protocol.name.
	Type string `yaml:"type,omitempty"`
	// SRVPort says whose port an SRV record states: relay, which is also the default, or app.
	SRVPort string `yaml:"srvPort,omitempty"`
	// Port and RelayPort are the application's and its relay's where no record states them.
	Port      int `yaml:"port,omitempty"`
	RelayPort int `yaml:"relayPort,omitempty"`
	// Family is ipv4, ipv6 or both; empty: the IPv4 addresses, else the IPv6 ones.
	Family string `yaml:"family,omitempty"`
}

// Kubernetes is a Kubernetes cluster to read. Of it, only what opted in is taken.
type Kubernetes struct {
	// Kubeconfig is the path of a kubeconfig file; empty: the credentials that a pod is given.
	Kubeconfig string `yaml:"kubeconfig,omitempty"`
	// Context is one of the kubeconfig's contexts; empty: its current one.
	Context string `yaml:"context,omitempty"`
	// WatchNamespaces are the namespaces to read, each with rights of its own; empty: all.
	WatchNamespaces []string `yaml:"watchNamespaces,omitempty"`
	// ExportSelector is a label selector, ExportNamespaces are patterns as path.Match reads them:
	// the Services that match one of them are taken, beside those annotated farcall.io/export.
	ExportSelector   string   `yaml:"exportSelector,omitempty"`
	ExportNamespaces []string `yaml:"exportNamespaces,omitempty"`
	// Regions reads the Nodes' labels for the region of each instance.
	Regions bool `yaml:"regions,omitempty"`
	Scope   `yaml:",inline"`
}

// MDNS is the local network to listen to, and at an agent to announce applications in.
type MDNS struct {
	// Interfaces are the names of the network interfaces; empty: all that can multicast.
	Interfaces []string `yaml:"interfaces,omitempty"`
	// TTL is how long others believe an agent's announcements without hearing them again.
	TTL   time.Duration `yaml:"ttl" default:"120s"`
	Scope `yaml:",inline"`
}

// File is a file of services to read.
type File struct {
	Path  string `yaml:"path"`
	Scope `yaml:",inline"`
}

// Store is where the federation's lists are kept: exactly one of its fields is set.
type Store struct {
	Embedded *Embedded `yaml:"embedded,omitempty"`
	Etcd     *Etcd     `yaml:"etcd,omitempty"`
}

// Embedded is an etcd inside the synchronizer's process; there is then exactly one synchronizer.
type Embedded struct {
	DataDir string `yaml:"dataDir" default:"./farcall-data"`
}

// Etcd is an external etcd.
type Etcd struct {
	// Endpoints are host:port or http(s) URLs of its members, at least one.
	Endpoints []string `yaml:"endpoints"`
	TLS       *TLS     `yaml:"tls,omitempty"`
}

// TLS is what a client needs to speak TLS. Without CA, the system's authorities are trusted;
// Cert and Key are set together or not at all. All three are paths of PEM files.
type TLS struct {
	Cert string `yaml:"cert,omitempty"`
	Key  string `yaml:"key,omitempty"`
	CA   string `yaml:"ca,omitempty"`
}

// Listener is one listener for those who have no identity: plaintext, or with a certificate.
type Listener struct {
	// Listen is host:port or unix:///path. Port 0 takes a free one.
	Listen string `yaml:"listen"`
	// Insecure allows plaintext on an address that is neither loopback nor a unix socket.
	Insecure bool `yaml:"insecure,omitempty"`
	// TLS is the listener's certificate; nil: it is plaintext.
	TLS *ServerTLS `yaml:"tls,omitempty"`
}

// Network gives what net.Listen takes: "tcp" and host:port, or "unix" and a path.
func (l Listener) Network() (network, address string) {
	if path, ok := strings.CutPrefix(l.Listen, "unix://"); ok {
		return "unix", path
	}
	return "tcp", l.Listen
}

// Internal is the listener that peers dial.
type Internal struct {
	// Listen is host:port. Port 0 takes a free one, the same again while DataDir remembers it.
	Listen string `yaml:"listen" default:"127.0.0.1:0"`
	// Advertise is host or host:port as peers reach it; empty: the host of Listen, or, where that
	// is unspecified, the source address towards the synchronizer.
	Advertise string `yaml:"advertise,omitempty"`
	// Insecure allows plaintext on an address that is not loopback.
	Insecure bool `yaml:"insecure,omitempty"`
}

// Guard tunes the guard against implausible removals.
type Guard struct {
	// Hold is how long removals above the floor are held at most. Longer rides out longer
	// registry failures and shows true mass removals later.
	Hold time.Duration `yaml:"hold" default:"60s"`
}

// Secret is a text that is never printed: every formatting verb, log line and encoding shows
// that it is there, not what it is.
type Secret string

const redacted = "<redacted>"

// Value gives the secret itself.
func (s Secret) Value() string { return string(s) }

// String hides a secret that is set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format hides the secret from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue hides the secret from package slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Effective gives the configuration with all defaults filled in, as YAML that reads back as the
// same configuration but for its secrets, which are redacted.
func (s *Synchronizer) Effective() []byte { return effective(s) }

// Effective gives the configuration with all defaults filled in, as YAML that reads back as the
// same configuration but for its secrets, which are redacted.
func (a *Agent) Effective() []byte { return effective(a) }

func effective(v any) []byte {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	// Writing plain structs into memory has no way to fail; an error would be shown in place.
	if err := e.Encode(v); err != nil {
		fmt.Fprintf(&b, "# %v\n", err)
	}
	return b.Bytes()
}
