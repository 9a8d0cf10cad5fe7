package mirror

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/policy"
)

// Policies is what a reader knows of policies and cordons.
type Policies struct {
	// Set is what is in force, never nil. Cordons that have expired are in it until somebody
	// removes them.
	Set *policy.Set
	// Known says that all of them were read at least once, be it from a saved view.
	Known bool
	// Refused names those that are not followed as they stand in the store, a sentence each, in
	// the order of their keys.
	Refused []string
	// Seen is the revision of all policies and cordons in the store, as far as this reader was told.
	Seen uint64
	// Size is about how many bytes all of them take as entries of the feed that are not compressed,
	// those that are not followed included.
	Size int
	// Behind says that the store has lost what is held here, and was not told it again yet.
	Behind bool
}

// policies is the mirror's part for policies and cordons. What the store holds and what is in
// force are kept apart: after a store was wiped, or restored from a backup, what is in force stays
// until the store has caught up with it.
type policies struct {
	there  stated  // what the store holds
	listed *stated // what the running list named; nil without one
	dirty  bool    // there is another one than at the last settling

	held   map[string]*statement   // what is in force, by key
	as     *storev1.PoliciesSynced // the revision it is of, and of which store; nil before the first
	result Policies
}

// stated is the policies and cordons of a store.
type stated struct {
	marker *storev1.PoliciesSynced // nil where there is none
	at     stand                   // of the marker
	texts  map[string]text         // by key
}

// entryFrame is about what an entry takes in a message beside its key and value, in bytes: their
// lengths and tags.
const entryFrame = 16

// text is a policy or cordon as it is stored.
type text struct {
	key   keys.Key
	value []byte
	at    stand
	// before is the value that this one took the place of before the policies were settled. A saved
	// view has the last one that was understood there.
	before []byte
}

// statement is a policy or cordon that is held.
type statement struct {
	key    keys.Key
	value  []byte         // as the store has it
	policy *policy.Policy // what is followed; nil where it is a cordon, or nothing of it was ever understood
	cordon *policy.Cordon
	good   []byte // the value that is followed, where that is not value
	why    error  // why value is not followed; nil where it is
	size   int    // of value in bytes, not compressed
}

func newPolicies() policies {
	return policies{
		there:  stated{texts: map[string]text{}},
		held:   map[string]*statement{},
		result: Policies{Set: policy.NewSet(nil, nil, 0)},
	}
}

// Policies returns what is known of policies and cordons. It must not be changed.
func (m *Mirror) Policies() Policies {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.policies.result
}

// PolicyEntries gives all policies and cordons that are held, as the store's entries, and last
// what they are complete with; nothing where they are not known. It is for a store that has lost
// them.
func (m *Mirror) PolicyEntries() ([]*feedv1.Entry, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.policyEntries(false)
}

// policyEntries is PolicyEntries, where asked with the values that are followed in the place of
// such as are not understood, each before the value itself. Caller holds mu.
func (m *Mirror) policyEntries(followed bool) ([]*feedv1.Entry, error) {
	p := &m.policies
	if p.as == nil {
		return nil, nil
	}
	var out entryList
	for _, key := range slices.Sorted(maps.Keys(p.held)) {
		s, at := p.held[key], m.saved(p.there.texts[key].at)
		if followed && s.good != nil {
			out.entries = append(out.entries, &feedv1.Entry{Key: key, Value: s.good, Revision: at})
		}
		out.entries = append(out.entries, &feedv1.Entry{Key: key, Value: s.value, Revision: at})
	}
	out.add(m.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), p.as, m.saved(p.there.at))
	return out.entries, out.err
}

// applyPolicy notes an entry of a policy, a cordon, or their marker. settle decides what follows
// from it: in a list that is only at its end.
func (m *Mirror) applyPolicy(k keys.Key, e *feedv1.Entry) {
	p := &m.policies
	to := &p.there
	if m.listing {
		to = p.listed
	} else {
		p.dirty = true
	}
	switch {
	case k.Kind == keys.PoliciesSynced && e.GetDeleted():
		to.marker, to.at = nil, stand{}
	case k.Kind == keys.PoliciesSynced:
		var v storev1.PoliciesSynced
		if m.decode(k, e, &to.at, &v) {
			to.marker, to.at = &v, m.standOf(e)
		}
	case e.GetDeleted():
		delete(to.texts, e.GetKey())
	default:
		to.texts[e.GetKey()] = text{key: k, value: e.GetValue(), at: m.standOf(e), before: to.texts[e.GetKey()].value}
	}
}

// beginPolicies, abandonPolicies and endPolicies follow a list. Caller holds mu.
func (m *Mirror) beginPolicies() { m.policies.listed = &stated{texts: map[string]text{}} }

func (m *Mirror) abandonPolicies() { m.policies.listed = nil }

func (m *Mirror) endPolicies() {
	p := &m.policies
	p.there, p.listed, p.dirty = *p.listed, nil, true
}

// settle puts what the store holds in force, where the store has all that was in force before.
// "No policy" is never concluded from a store that is not marked. Caller holds mu.
func (m *Mirror) settle(ch *Changes) {
	p := &m.policies
	if !p.dirty || m.listing {
		return
	}
	p.dirty = false
	was := p.result
	p.result.Seen = p.there.marker.GetRevision()
	switch {
	case p.as == nil && p.there.marker == nil:
		return
	case p.as != nil && !keys.Covers(m.storeID, p.there.marker, p.as):
		p.result.Behind = true
		ch.Policies = ch.Policies || !was.Behind
		return
	}
	as := &storev1.PoliciesSynced{Revision: p.there.marker.GetRevision(), Store: m.storeID}
	if of := p.there.marker.GetStore(); of != "" {
		as.Store = of // a saved view knows whose it is
	}
	changed := m.adopt()
	p.result.Behind, p.result.Known = false, true
	if changed || p.as == nil || as.GetRevision() != p.as.GetRevision() || was.Behind {
		ch.Policies = true
		p.publish(as.GetRevision())
	}
	p.as = as
}

// adopt makes what is held what the store holds, and reports whether that is another thing.
func (m *Mirror) adopt() (changed bool) {
	p := &m.policies
	next := make(map[string]*statement, len(p.there.texts))
	for key, t := range p.there.texts {
		old := p.held[key]
		if old == nil || !bytes.Equal(old.value, t.value) {
			changed = true
			if t.before != nil && (old == nil || !bytes.Equal(old.value, t.before)) {
				old = m.read(t.key, t.before, old)
			}
			old = m.read(t.key, t.value, old)
		}
		next[key] = old
		if t.before != nil {
			t.before = nil
			p.there.texts[key] = t
		}
	}
	changed = changed || len(next) != len(p.held)
	p.held = next
	return changed
}

// publish makes what readers are given.
func (p *policies) publish(revision uint64) {
	var list []*policy.Policy
	var cordons []*policy.Cordon
	p.result.Refused, p.result.Size = nil, 0
	for _, key := range slices.Sorted(maps.Keys(p.held)) {
		s := p.held[key]
		p.result.Size += len(key) + s.size + entryFrame
		if s.policy != nil {
			list = append(list, s.policy)
		}
		if s.cordon != nil {
			cordons = append(cordons, s.cordon)
		}
		if s.why != nil {
			p.result.Refused = append(p.result.Refused, s.refusal())
		}
	}
	p.result.Set = policy.NewSet(list, cordons, revision)
}

// read reads a value of which old, or nil, was held before. What is not understood leaves what is
// followed as it was.
func (m *Mirror) read(k keys.Key, value []byte, old *statement) *statement {
	s := &statement{key: k, value: value}
	var refusal Refusal
	if k.Kind == keys.Policy {
		refusal, s.why = s.readPolicy()
	} else {
		refusal, s.why = s.readCordon()
	}
	if s.why == nil {
		return s
	}
	m.refused[refusal]++
	if old != nil {
		s.policy, s.cordon, s.good = old.policy, old.cordon, old.good
		if old.why == nil {
			s.good = old.value
		}
	}
	return s
}

func (s *statement) readPolicy() (Refusal, error) {
	var v policyv1.Policy
	if err := s.decode(&v); err != nil {
		return RefusedCorrupt, err
	}
	p, err := policy.Read(&v)
	switch {
	case err != nil:
		return RefusedPolicy, err
	case p.ID() != s.key.ID:
		return RefusedForeign, fmt.Errorf("is under a key of another, and says of itself that it is that of %s", p)
	}
	s.policy = p
	return "", nil
}

func (s *statement) readCordon() (Refusal, error) {
	var v policyv1.Cordon
	if err := s.decode(&v); err != nil {
		return RefusedCorrupt, err
	}
	c, err := policy.ReadCordon(&v)
	switch {
	case err != nil:
		return RefusedPolicy, err
	case c.Cluster != s.key.Cluster || c.ID() != s.key.ID:
		return RefusedForeign, fmt.Errorf("is under a key of another, and says of itself that it is that of %s", c)
	}
	s.cordon = c
	return "", nil
}

func (s *statement) decode(into proto.Message) error {
	if err := keys.Decode(s.value, into); err != nil {
		s.size = len(s.value)
		return fmt.Errorf("cannot be read: %w", err)
	}
	s.size = proto.Size(into)
	return nil
}

// refusal says in a sentence what is not followed, why, and what is in its place.
func (s *statement) refusal() string {
	what, instead := "", "nothing of it is followed"
	if s.key.Kind == keys.Policy {
		what = fmt.Sprintf("policy %q", s.key.ID)
		if target, from, err := policy.ParseID(s.key.ID); err == nil {
			what = "policy " + (&policy.Policy{Target: target, From: from}).String()
		}
	} else {
		what = fmt.Sprintf("cordon %q of cluster %s", s.key.ID, s.key.Cluster)
		if name, err := policy.ParseCordonID(s.key.ID); err == nil {
			what = "cordon of " + (&policy.Cordon{Cluster: s.key.Cluster, Name: name}).String()
		}
	}
	switch {
	case s.policy != nil:
		instead = fmt.Sprintf("that of revision %d is followed instead", s.policy.Revision)
	case s.cordon != nil:
		instead = fmt.Sprintf("that of revision %d is followed instead", s.cordon.Revision)
	}
	return fmt.Sprintf("%s %v; %s", what, s.why, instead)
}
