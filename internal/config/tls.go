package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/identity"
)

// Identity is where a process gets its SPIFFE identity from: either the three files, or WorkloadAPI.
// What changes there is taken while the process runs.
type Identity struct {
	// Cert, Key and CA are paths of PEM files: the certificate, its key, and the authorities whose
	// certificates are believed.
	Cert string `yaml:"cert,omitempty"`
	Key  string `yaml:"key,omitempty"`
	CA   string `yaml:"ca,omitempty"`
	// WorkloadAPI is unix:///path of the socket of a SPIFFE Workload API.
	WorkloadAPI string `yaml:"workloadAPI,omitempty"`
}

// AgentIdentity is an agent's Identity, and to whom it speaks without one.
type AgentIdentity struct {
	Cert        string `yaml:"cert,omitempty"`
	Key         string `yaml:"key,omitempty"`
	CA          string `yaml:"ca,omitempty"`
	WorkloadAPI string `yaml:"workloadAPI,omitempty"`
	// PlaintextRelays are the clusters whose registries may state relays that have no identity, such as
	// Dapr sidecars: calls to these, and to no agent, are plaintext.
	PlaintextRelays []string `yaml:"plaintextRelays,omitempty"`
}

// Identity gives where the identity comes from; nil where there is none.
func (a *AgentIdentity) Identity() *Identity {
	if a == nil {
		return nil
	}
	return &Identity{Cert: a.Cert, Key: a.Key, CA: a.CA, WorkloadAPI: a.WorkloadAPI}
}

// ServerTLS is the certificate of a listener. All three are paths of PEM files, read again when they
// change.
type ServerTLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// CA, where it is set, are the authorities of which one must have signed the certificate that a
	// client shows.
	CA string `yaml:"ca,omitempty"`
}

// plaintext holds a listener without TLS to loopback, unless it says otherwise in so many words. remedy
// says what would make it secure.
func (v *validator) plaintext(at, block, listen string, insecure bool, remedy string) {
	if insecure || strings.HasPrefix(listen, "unix:") || catalog.IsLoopback(listen) {
		return
	}
	where := "at the top level"
	if block != "" {
		where = fmt.Sprintf("in the %q block", block)
	}
	v.errorf(at, "%s is plaintext and not loopback: anybody who reaches it can read and speak; %s, or to allow that, write \"insecure: true\" %s", listen, remedy, where)
}

// shared checks a listener that the identity at the top level covers, and reports whether its address
// can be one. Block is empty for the synchronizer's own.
func (v *validator) shared(block, listen string, insecure, tls bool, port string) bool {
	at, said := child(block, "listen"), child(block, "insecure")
	if err := checkListen(listen, port, false); err != nil {
		v.errorf(at, "%v", err)
		return false
	}
	switch {
	case !tls:
		v.plaintext(at, block, listen, insecure, "give this process an identity with tls: {cert, key, ca} at the top level (farcall certs makes one)")
	case insecure:
		v.errorf(said, "stands beside tls in line %d, with which %s is not plaintext: leave insecure out", v.lines["tls"], at)
	}
	return true
}

// serverTLS checks the certificate of a listener for those who have no identity.
func (v *validator) serverTLS(block string, l Listener) {
	if l.TLS == nil {
		return
	}
	at := child(block, "tls")
	v.missing(at, "cert", l.TLS.Cert == "", "want the PEM file of the listener's certificate")
	v.missing(at, "key", l.TLS.Key == "", "want the PEM file of that certificate's key")
	if l.Insecure {
		v.errorf(child(block, "insecure"), "stands beside %s, with which the listener is not plaintext: leave insecure out", at)
	}
}

// identity checks where a process's identity comes from.
func (v *validator) identity(id *Identity) {
	if id == nil {
		return
	}
	if _, written := v.lines["tls.workloadAPI"]; written {
		if id.Cert+id.Key+id.CA != "" {
			v.errorf("tls.workloadAPI", "stands beside the files of an identity: want cert, key and ca, or workloadAPI")
			return
		}
		if err := checkListen(id.WorkloadAPI, "", true); err != nil || !strings.HasPrefix(id.WorkloadAPI, "unix:") {
			v.errorf("tls.workloadAPI", "%q: want the socket of a SPIFFE Workload API, for example unix:///run/spire/sockets/agent.sock", id.WorkloadAPI)
		}
		return
	}
	v.missing("tls", "cert", id.Cert == "", "want the PEM file of this process's certificate (farcall certs makes one)")
	v.missing("tls", "key", id.Key == "", "want the PEM file of that certificate's key")
	v.missing("tls", "ca", id.CA == "", "want the PEM file of the authorities to believe: the system's do not sign identities")
}

// agentIdentity checks an agent's identity, in which its node is named.
func (v *validator) agentIdentity(a *Agent) {
	if a.TLS == nil {
		return
	}
	v.identity(a.TLS.Identity())
	if err := identity.CheckName(a.Node); a.Node != "" && err != nil {
		v.errorf("node", "stands in this agent's identity, since there is a tls in line %d: %v", v.lines["tls"], err)
	}
	for i, name := range a.TLS.PlaintextRelays {
		at := fmt.Sprintf("tls.plaintextRelays[%d]", i)
		if err := catalog.CheckClusterName(name); err != nil {
			v.errorf(at, "%v", err)
		} else if slices.Index(a.TLS.PlaintextRelays, name) < i {
			v.errorf(at, "%s is listed twice", name)
		}
	}
}
