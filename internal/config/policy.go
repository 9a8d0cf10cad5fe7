package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/policy"
)

// Policy is one document of a file of policies: what it is about, and what it states.
type Policy struct {
	// Service is app-id, app-id.namespace or namespace/app-id; beside Namespace, app-id only.
	Service   string   `yaml:"service,omitempty"`
	Namespace string   `yaml:"namespace,omitempty"`
	Cluster   string   `yaml:"cluster,omitempty"`
	From      []string `yaml:"from,omitempty,flow"`
	// Override is allow or deny.
	Override       *string `yaml:"override,omitempty"`
	PolicySettings `yaml:",inline"`
}

// PolicySettings are the settings of a policy that an agent's configuration may state as well.
// What is nil is not stated. Package policy says what is accepted.
type PolicySettings struct {
	Strategy      *string            `yaml:"strategy,omitempty"`
	ExternalOrder *[][]string        `yaml:"externalOrder,omitempty,flow"`
	Failover      *Failover          `yaml:"failover,omitempty,flow"`
	Balancer      *string            `yaml:"balancer,omitempty"`
	Locality      *string            `yaml:"locality,omitempty"`
	Weights       *map[string]uint32 `yaml:"weights,omitempty,flow"`
	Failback      *Failback          `yaml:"failback,omitempty,flow"`
	RecoverAll    *bool              `yaml:"recoverAll,omitempty"`
	Retry         *Retry             `yaml:"retry,omitempty,flow"`
	Broadcast     *Broadcast         `yaml:"broadcast,omitempty,flow"`
	StaleTTL      *time.Duration     `yaml:"staleTTL,omitempty"`
	WarmUp        *time.Duration     `yaml:"warmUp,omitempty"`
	HashHeader    *string            `yaml:"hashHeader,omitempty"`
}

// Failover says when a tier is sufficient.
type Failover struct {
	Threshold    uint32 `yaml:"threshold"`
	MinAvailable uint32 `yaml:"minAvailable"`
	Mode         string `yaml:"mode" default:"spill"`
}

// Failback says how calls come back to a tier.
type Failback struct {
	Hold time.Duration `yaml:"hold"`
	Ramp time.Duration `yaml:"ramp"`
}

// Retry bounds the attempts of one call.
type Retry struct {
	Attempts   uint32   `yaml:"attempts"`
	Idempotent []string `yaml:"idempotent"`
}

// Broadcast says how a broadcast is delivered.
type Broadcast struct {
	MinSuccess    MinSuccess    `yaml:"minSuccess"`
	TargetTimeout time.Duration `yaml:"targetTimeout" default:"10s"`
	MaxParallel   uint32        `yaml:"maxParallel"`
}

// MinSuccess is a number of targets; 0, which is written "all", means all of them.
type MinSuccess uint32

const allTargets = "all"

// MarshalYAML writes the word or the number.
func (m MinSuccess) MarshalYAML() (any, error) {
	if m == 0 {
		return allTargets, nil
	}
	return uint32(m), nil
}

// scalar reads the word or the number.
func (m *MinSuccess) scalar(n *yaml.Node) error {
	if n.ShortTag() == "!!str" && n.Value == allTargets {
		*m = 0
		return nil
	}
	number, err := strconv.ParseUint(n.Value, 10, 32)
	if n.ShortTag() != "!!int" || err != nil || number == 0 {
		return fmt.Errorf("want %q or a number of targets from 1, got %s", allTargets, describe(n))
	}
	*m = MinSuccess(number)
	return nil
}

// ParsePolicies reads and validates the text of a file of policies; name is the file's in messages.
// The error names every mistake, one a line; each of them is an *Error. Each document is one policy;
// documents are parted by lines of "---", and empty ones are skipped. The policies are in their
// canonical form, in the order of the file.
func ParsePolicies(name string, data []byte) ([]*policyv1.Policy, error) {
	all := newReport(name)
	roots, ok := (&decoder{report: all}).documents(data)
	if ok && len(roots) == 0 {
		all.add(1, "", "is empty: want at least one policy")
	}
	sets := map[policy.Target]*policy.Set{}
	var list []*policyv1.Policy
	begins := map[string]int{}
	values := 0
	for _, root := range roots {
		// Paths are those inside a document, so each has a report of its own.
		d := &decoder{report: newReport(name), values: values}
		p := d.policy(root)
		values = d.values
		all.errs = append(all.errs, d.errs...)
		if values > maxValues {
			break
		}
		if p == nil {
			continue
		}
		set := sets[p.Target]
		if o := cmp.Or(set.Policy(p.ID()), overlap(set, p)); o != nil {
			all.add(root.Line, "", "%s: %s stands in line %d already: of one target and one cluster there is one policy", p, o, begins[o.ID()])
			continue
		}
		sets[p.Target] = set.With(p)
		begins[p.ID()] = root.Line
		list = append(list, p.Proto())
	}
	if err := all.err(); err != nil {
		return nil, err
	}
	return list, nil
}

func overlap(set *policy.Set, p *policy.Policy) *policy.Policy {
	o, _ := set.Overlap(p)
	return o
}

// documents gives the root node of each document in data that is not empty.
func (d *decoder) documents(data []byte) ([]*yaml.Node, bool) {
	var roots []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		switch err := dec.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return roots, true
		case err != nil:
			d.syntax(string(data), err)
			return nil, false
		case len(doc.Content) > 0 && !empty(doc.Content[0]):
			roots = append(roots, doc.Content[0])
		}
	}
}

// policy reads one document, or gives nil and has noted why.
func (d *decoder) policy(root *yaml.Node) *policy.Policy {
	var doc Policy
	if !d.root(root, &doc) {
		return nil
	}
	m := &policyv1.Policy{From: doc.From, Settings: doc.PolicySettings.proto(), Target: &policyv1.Target{
		Service: doc.Service, Namespace: doc.Namespace, Cluster: doc.Cluster,
	}}
	m.Settings.Override = doc.Override
	if _, written := d.lines["from"]; written && len(doc.From) == 0 {
		d.errorf("from", "names no cluster: leave it out for the callers of all")
	}
	d.zeros("", &doc.PolicySettings)
	if doc.Service != "" {
		d.service(m.Target)
	} else if _, written := d.lines["service"]; written {
		d.errorf("service", "is empty: want the app-id")
	}
	p, err := policy.FromProto(m)
	d.policyErrors("", err)
	if len(d.errs) > 0 {
		return nil
	}
	return p
}

// service takes the spelling of a service apart, which may name the namespace.
func (d *decoder) service(t *policyv1.Target) {
	n, err := catalog.ParseName(t.Service, t.Namespace)
	switch {
	case err != nil:
		d.errorf("service", "%v", err)
		return
	case t.Namespace != "" && n.Service != t.Service:
		d.errorf("namespace", "stands beside service %q, which names a namespace itself: for the service %q of namespace %q write service: %s",
			t.Service, t.Service, t.Namespace, t.Namespace+"/"+t.Service)
		return
	}
	t.Service, t.Namespace = n.Service, n.Namespace
}

// zeros notes numbers that are written as 0 where 0 means nothing: in a message it stands for the
// default, which is not what somebody means who writes it.
func (r *report) zeros(at string, s *PolicySettings) {
	check := func(path string, number uint32) {
		if at != "" {
			path = at + "." + path
		}
		if _, written := r.lines[path]; written && number == 0 && !r.bad[path] {
			r.errorf(path, "is 0: want at least 1")
		}
	}
	if s.Failover != nil {
		check("failover.minAvailable", s.Failover.MinAvailable)
	}
	if s.Retry != nil {
		check("retry.attempts", s.Retry.Attempts)
	}
	if s.Broadcast != nil {
		check("broadcast.maxParallel", s.Broadcast.MaxParallel)
	}
}

// policyErrors notes what package policy found wrong with the block at a path.
func (r *report) policyErrors(at string, err error) {
	var list policy.Errors
	if !errors.As(err, &list) {
		return
	}
	known := len(r.errs) > 0
	for _, e := range list {
		path := e.Path
		switch {
		case path == "" && known:
			continue // a misspelt key explains what seems to be missing
		case path == "":
			path = at
		case at != "":
			path = at + "." + path
		}
		if !r.badInside(path) {
			r.errorf(path, "%s", e.Text)
		}
	}
}

// badInside reports whether something inside a block has been complained about: what is then said
// of the whole may follow from that.
func (r *report) badInside(path string) bool {
	for p := range r.bad {
		if path != "" && (strings.HasPrefix(p, path+".") || strings.HasPrefix(p, path+"[")) {
			return true
		}
	}
	return false
}

// Base gives what the agent's configuration states about its applications' calls, below every
// policy. It is for a configuration that a Parse or Read function returned; of another, what is
// not valid states nothing.
func (a *Agent) Base() policy.Settings {
	stated := a.Policy
	if stated == nil {
		stated = &PolicySettings{}
	}
	m := stated.proto()
	if a.Strategy != "" {
		m.Strategy = &a.Strategy
	}
	s, err := policy.SettingsFromProto(m)
	if err != nil {
		return policy.Settings{}
	}
	return s
}

// localPolicy checks the agent's own policy and puts it into its canonical form.
func (v *validator) localPolicy(a *Agent) {
	if a.Policy == nil {
		return
	}
	if a.Policy.Strategy != nil {
		if line, twice := v.lines["strategy"]; twice {
			v.errorf("policy.strategy", "stands beside strategy in line %d: want one of them", line)
		}
	}
	v.zeros("policy", a.Policy)
	s, err := policy.SettingsFromProto(a.Policy.proto())
	if err != nil {
		v.policyErrors("policy", err)
		return
	}
	canonical := settingsOf(s.Proto())
	a.Policy = &canonical
}

// proto gives the settings as policy.FromProto reads them.
func (s *PolicySettings) proto() *policyv1.Settings {
	m := &policyv1.Settings{
		Strategy: s.Strategy, Balancer: s.Balancer, Locality: s.Locality, RecoverAll: s.RecoverAll, HashHeader: s.HashHeader,
	}
	if s.ExternalOrder != nil {
		m.ExternalOrder = &policyv1.ExternalOrder{}
		for _, pool := range *s.ExternalOrder {
			m.ExternalOrder.Pools = append(m.ExternalOrder.Pools, &policyv1.Pool{Clusters: pool})
		}
	}
	if f := s.Failover; f != nil {
		m.Failover = &policyv1.Failover{Threshold: f.Threshold, MinAvailable: f.MinAvailable, Mode: f.Mode}
	}
	if s.Weights != nil {
		m.Weights = &policyv1.Weights{Clusters: *s.Weights}
	}
	if f := s.Failback; f != nil {
		m.Failback = &policyv1.Failback{Hold: durationpb.New(f.Hold), Ramp: durationpb.New(f.Ramp)}
	}
	if r := s.Retry; r != nil {
		m.Retry = &policyv1.Retry{Attempts: r.Attempts, Idempotent: r.Idempotent}
	}
	if b := s.Broadcast; b != nil {
		m.Broadcast = &policyv1.Broadcast{
			MinSuccess: uint32(b.MinSuccess), TargetTimeout: durationpb.New(b.TargetTimeout), MaxParallel: b.MaxParallel,
		}
	}
	if s.StaleTTL != nil {
		m.StaleTtl = durationpb.New(*s.StaleTTL)
	}
	if s.WarmUp != nil {
		m.WarmUp = durationpb.New(*s.WarmUp)
	}
	return m
}

// settingsOf is the inverse of proto, for settings in their canonical form.
func settingsOf(m *policyv1.Settings) PolicySettings {
	s := PolicySettings{
		Strategy: m.Strategy, Balancer: m.Balancer, Locality: m.Locality, RecoverAll: m.RecoverAll, HashHeader: m.HashHeader,
	}
	if m.ExternalOrder != nil {
		order := [][]string{}
		for _, pool := range m.ExternalOrder.GetPools() {
			order = append(order, pool.GetClusters())
		}
		s.ExternalOrder = &order
	}
	if f := m.Failover; f != nil {
		s.Failover = &Failover{Threshold: f.GetThreshold(), MinAvailable: f.GetMinAvailable(), Mode: f.GetMode()}
	}
	if m.Weights != nil {
		weights := maps.Clone(m.Weights.GetClusters())
		s.Weights = &weights
	}
	if f := m.Failback; f != nil {
		s.Failback = &Failback{Hold: f.GetHold().AsDuration(), Ramp: f.GetRamp().AsDuration()}
	}
	if r := m.Retry; r != nil {
		s.Retry = &Retry{Attempts: r.GetAttempts(), Idempotent: r.GetIdempotent()}
	}
	if b := m.Broadcast; b != nil {
		s.Broadcast = &Broadcast{
			MinSuccess: MinSuccess(b.GetMinSuccess()), TargetTimeout: b.GetTargetTimeout().AsDuration(), MaxParallel: b.GetMaxParallel(),
		}
	}
	if m.StaleTtl != nil {
		d := m.StaleTtl.AsDuration()
		s.StaleTTL = &d
	}
	if m.WarmUp != nil {
		d := m.WarmUp.AsDuration()
		s.WarmUp = &d
	}
	return s
}
