package mirror

import (
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// Annotation returns the strategy that the registries of a cluster state for the callers in that
// cluster of one service, by the first registry that states one; empty where none does.
func (m *Mirror) Annotation(clusterName string, n catalog.Name) strategy.Kind {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.clusters[clusterName]
	if c == nil || len(c.annotations) == 0 {
		return ""
	}
	return c.annotations[n.String()]
}

// annotations gives what a cluster's registries state by "namespace/service", the first registry
// first. Words that are none are left out and counted. Caller holds mu.
func (m *Mirror) annotations(meta *storev1.ClusterMeta) map[string]strategy.Kind {
	var out map[string]strategy.Kind
	for _, r := range meta.GetRegistries() {
		for name, word := range r.GetStrategies() {
			kind, err := strategy.Parse(word)
			if err != nil {
				m.refused[RefusedStrategy]++
				continue
			}
			if _, stated := out[name]; stated {
				continue
			}
			if out == nil {
				out = map[string]strategy.Kind{}
			}
			out[name] = kind
		}
	}
	return out
}
