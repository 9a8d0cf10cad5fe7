package kubernetes

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// The annotations of a Service that are read.
const (
	// ExportAnnotation takes a Service ("true") or leaves it out ("false"), whatever the
	// configuration says of it.
	ExportAnnotation = "farcall.io/export"
	// PortAnnotation is the name or number of the Service's port at which the application is
	// called. Where the Service states no ports, it is the instances' own port.
	PortAnnotation = "farcall.io/port"
	// StrategyAnnotation is the cluster strategy of calls of the service by callers in the same
	// cluster: a policy of the service, for them.
	StrategyAnnotation = "farcall.io/strategy"
	// AppIDAnnotation names the service. Dapr's operator writes it on the <app-id>-dapr Services
	// that it makes.
	AppIDAnnotation = "dapr.io/app-id"
)

// Ports at which CallLocal is served for an instance, in order of preference: an agent of ours,
// and the name that Dapr's operator gives to daprd's internal gRPC port.
var relayPorts = []string{"farcall", "dapr-internal"}

// appPorts are the names that are taken for the application's port before the order counts: the
// protocols that an agent delivers in.
var appPorts = []string{"http", "https", "h2c", "grpc"}

// notTheApps reports whether a port of this name belongs to Farcall or to Dapr's sidecar
// (dapr-http, dapr-grpc, dapr-internal, dapr-metrics).
func notTheApps(name string) bool { return name == "farcall" || strings.HasPrefix(name, "dapr-") }

// port is a TCP port by name.
type port struct {
	name   string
	number int
}

// service is what a Service says that counts.
type service struct {
	name  catalog.Name
	taken bool
	// aside says what of its annotations cannot be used.
	aside []catalog.SetAside
	// remark says that StrategyAnnotation is there and does not count, which changes nothing else.
	remark catalog.SetAside
	// ports are the Service's own, TCP only, in its order.
	ports []port
	// port is the word of PortAnnotation.
	port string
	// strategy is the word of StrategyAnnotation in its canonical spelling; empty where there is
	// none that counts.
	strategy string
	families []discoveryv1.AddressType
	// external is the name of an ExternalName Service.
	external string
	revision string
}

// same reports whether two say the same, revisions apart.
func (s *service) same(o *service) bool {
	return s.sameInstances(o) && s.strategy == o.strategy && s.remark == o.remark
}

// sameInstances reports whether two say the same of the instances behind them.
func (s *service) sameInstances(o *service) bool {
	return s.name == o.name && s.taken == o.taken && s.port == o.port && s.external == o.external &&
		slices.Equal(s.aside, o.aside) && slices.Equal(s.ports, o.ports) && slices.Equal(s.families, o.families)
}

// rule says which Services are taken.
type rule struct {
	selector   labels.Selector // nil: none
	namespaces []string
}

// takes says whether a Service is taken, and what is wrong with what it says about that.
func (r rule) takes(s *corev1.Service) (bool, string) {
	switch word, ok := s.Annotations[ExportAnnotation]; {
	case !ok:
	case word == "true":
		return true, ""
	case word == "false":
		return false, ""
	default:
		return false, fmt.Sprintf("annotation %s is %q: want \"true\" or \"false\"", ExportAnnotation, word)
	}
	if keyOf(s) == home {
		return false, "" // nobody means the API server by "all of this namespace"
	}
	if r.selector != nil && r.selector.Matches(labels.Set(s.Labels)) {
		return true, ""
	}
	return slices.ContainsFunc(r.namespaces, func(p string) bool {
		ok, err := path.Match(p, s.Namespace)
		return ok && err == nil // Validate refused those that are none
	}), ""
}

// read takes from a Service what counts.
func (r rule) read(s *corev1.Service) *service {
	out := &service{
		name:     catalog.Name{Namespace: s.Namespace, Service: cmp.Or(s.Annotations[AppIDAnnotation], s.Name)},
		port:     s.Annotations[PortAnnotation],
		revision: s.ResourceVersion,
	}
	record := s.Namespace + "/" + s.Name
	taken, wrong := r.takes(s)
	if out.taken = taken; wrong != "" {
		out.aside = []catalog.SetAside{{Record: record, Reason: wrong}}
	}
	if word, ok := s.Annotations[StrategyAnnotation]; ok {
		switch kind, err := strategy.Parse(word); {
		case err != nil:
			out.remark = catalog.SetAside{Record: record, Reason: fmt.Sprintf("annotation %s: %v", StrategyAnnotation, err)}
		case !taken:
			out.remark = catalog.SetAside{Record: record, Reason: fmt.Sprintf("annotation %s counts for nobody: the Service is not exported", StrategyAnnotation)}
		default:
			out.strategy = string(kind)
		}
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
			out.ports = append(out.ports, port{p.Name, int(p.Port)})
		}
	}
	for _, f := range s.Spec.IPFamilies {
		out.families = append(out.families, discoveryv1.AddressType(f))
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		out.external = s.Spec.ExternalName
	}
	return out
}

// appPort finds the application's port among those that the instances have; 0 where it is not
// stated.
func (s *service) appPort(have []port) (int, error) {
	if s.port != "" {
		return s.annotated(have)
	}
	for _, name := range appPorts {
		if n := number(have, name); n != 0 {
			return n, nil
		}
	}
	order := s.ports
	if len(order) == 0 {
		order = have
	}
	for _, p := range order {
		if n := number(have, p.name); n != 0 && !notTheApps(p.name) {
			return n, nil
		}
	}
	return 0, nil
}

// annotated finds the port that the annotation names.
func (s *service) annotated(have []port) (int, error) {
	named := func(p port) bool { return p.name == s.port || strconv.Itoa(p.number) == s.port }
	if len(s.ports) == 0 {
		if i := slices.IndexFunc(have, named); i >= 0 {
			return have[i].number, nil
		}
		if n, err := strconv.Atoi(s.port); err == nil {
			return n, nil
		}
		return 0, fmt.Errorf("annotation %s is %q: no port has this name", PortAnnotation, s.port)
	}
	i := slices.IndexFunc(s.ports, named)
	if i < 0 {
		return 0, fmt.Errorf("annotation %s is %q: the Service has no such port", PortAnnotation, s.port)
	}
	if n := number(have, s.ports[i].name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("annotation %s is %q: the EndpointSlice does not have this port", PortAnnotation, s.port)
}

// relayPort finds the port at which CallLocal is served; 0 where there is none.
func relayPort(have []port) int {
	for _, name := range relayPorts {
		if n := number(have, name); n != 0 {
			return n
		}
	}
	return 0
}

func number(ports []port, name string) int {
	for _, p := range ports {
		if p.name == name {
			return p.number
		}
	}
	return 0
}
