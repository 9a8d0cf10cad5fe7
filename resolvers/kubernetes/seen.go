package kubernetes

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// seen is how far a Resolver has read, and of which cluster.
type seen struct {
	// revisions are the latest resource versions by resource. Kubernetes lets versions of one
	// resource be compared (KEP-5504), and those of one etcd never go back, whichever API server
	// answers.
	revisions map[string]string
	// cluster is the uid of the Service default/kubernetes, which each cluster's API server makes
	// when it first starts; empty where that namespace is not read.
	cluster string
}

// note takes a revision in if it is later than what is known.
func (s *seen) note(resource, revision string) {
	if s.revisions == nil {
		s.revisions = map[string]string{}
	}
	if known := s.revisions[resource]; known == "" || before(known, revision) {
		s.revisions[resource] = revision
	}
}

// compare says why what was just read looks like another cluster or an older state, or nothing.
func (s *seen) compare(at map[*table]string, cluster string) string {
	for t, revision := range at {
		if reason := backwards(t.resource, s.revisions[t.resource], revision); reason != "" {
			return reason
		}
	}
	return s.another(cluster)
}

// another says that this is another cluster than before, or nothing.
func (s *seen) another(cluster string) string {
	if s.cluster == "" || cluster == "" || s.cluster == cluster {
		return ""
	}
	return fmt.Sprintf("another cluster answers: the uid of its Service default/kubernetes was %s and is %s", s.cluster, cluster)
}

// replace begins anew from a complete read.
func (s *seen) replace(at map[*table]string, cluster string) {
	s.revisions = nil
	for t, revision := range at {
		s.note(t.resource, revision)
	}
	if cluster != "" {
		s.cluster = cluster
	}
}

// revision is the latest of all, for people.
func (s *seen) revision() string {
	latest := ""
	for _, resource := range slices.Sorted(maps.Keys(s.revisions)) {
		if r := s.revisions[resource]; latest == "" || before(latest, r) {
			latest = r
		}
	}
	return latest
}

// backwards says that a revision is before one that was seen, or nothing.
func backwards(resource, was, is string) string {
	if !before(is, was) {
		return ""
	}
	return fmt.Sprintf("the resource version of %s went backwards, from %s to %s: was etcd restored?", resource, was, is)
}

// before reports whether a is a lower revision than b. What is no number cannot be compared.
func before(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
