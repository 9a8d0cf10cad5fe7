package policy

import (
	"slices"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// Who stated a setting, where it was no policy. A policy is called "policy " and its String, and
// an annotation also names the cluster.
const (
	byDefault    = "default"
	byAgent      = "agent's configuration"
	byAnnotation = "annotation in cluster "
	byPolicy     = "policy "
)

// Effective is all that is in force for the calls of one service from one cluster. It is not
// changed once it is handed out.
type Effective struct {
	strategy.Policy
	// Sources says for every key of a policy who stated what is in force: "policy service
	// default/cart from east", "annotation in cluster east", "agent's configuration", "default".
	Sources map[string]string
}

// Setting is one key of what is in force, as a policy in YAML would have it, and who stated it.
type Setting struct{ Key, Value, Source string }

// Settings lists every key, in the order in which a policy is written.
func (e *Effective) Settings() []Setting {
	list := make([]Setting, len(allKeys))
	for i := range allKeys {
		k := &allKeys[i]
		list[i] = Setting{Key: k.name, Value: k.value(&e.Policy), Source: e.Sources[k.name]}
	}
	return list
}

// layer is what one of those with a say states.
type layer struct {
	source   string
	settings *Settings
}

// Effective says what is in force for calls of n by callers in a cluster. Annotation is the
// strategy that the registry of that cluster states for the service, empty where it states none;
// base is what the caller's agent has in its own configuration.
//
// Each key counts for itself: what a policy leaves out is taken from the next less specific one.
// From the most specific: the service's policy for callers from that cluster, the annotation, the
// service's policy, the namespace's for callers from that cluster, the namespace's, the cluster's,
// the agent's configuration, the defaults.
func (s *Set) Effective(n catalog.Name, caller string, annotation strategy.Kind, base Settings) *Effective {
	layers := make([]layer, 0, 7)
	limited, general := s.layers(Target{Name: n}, caller)
	layers = append(layers, limited...)
	if annotation != "" {
		layers = append(layers, layer{byAnnotation + caller, &Settings{Strategy: &annotation}})
	}
	layers = append(layers, general...)
	limited, general = s.layers(Target{Name: catalog.Name{Namespace: n.Namespace}}, caller)
	layers = append(append(layers, limited...), general...)
	_, general = s.layers(Target{Cluster: caller}, caller)
	layers = append(append(layers, general...), layer{byAgent, &base})

	e := &Effective{Policy: strategy.Defaults(), Sources: make(map[string]string, len(allKeys))}
	for i := range allKeys {
		k := &allKeys[i]
		e.Sources[k.name] = byDefault
		for _, l := range layers {
			if k.stated(l.settings) {
				k.apply(l.settings, &e.Policy)
				e.Sources[k.name] = l.source
				break
			}
		}
	}
	// A threshold makes calls leave and return while instances come and go one by one; coming back
	// slowly is then the default.
	if e.Failover.Threshold > 0 && e.Sources["failback"] == byDefault {
		e.Failback = strategy.Failback{Hold: strategy.DefaultFailback, Ramp: strategy.DefaultFailback}
	}
	return e
}

// layers gives the policies of a target that apply to callers in a cluster: those that are limited
// to some, and those that are for all. Two that are limited to the same cluster are rejected where
// they are written; should both be there all the same, the one that was written last counts.
func (s *Set) layers(t Target, caller string) (limited, general []layer) {
	if s == nil {
		return nil, nil
	}
	for _, p := range s.byTarget[t] {
		switch l := (layer{p.source, &p.Settings}); {
		case len(p.From) == 0:
			general = append(general, l)
		case slices.Contains(p.From, caller):
			limited = append(limited, l)
		}
	}
	return limited, general
}
