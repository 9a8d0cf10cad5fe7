package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/strategy"
)

// Settings are what one policy, or an agent's own configuration, states: one field for each key,
// nil where the key is left out. A stated one is whole: what its block left out is filled in. The
// words are valid and the numbers in range. They are not changed once they are made.
type Settings struct {
	Strategy       *strategy.Kind
	OverrideDenied *bool
	ExternalOrder  [][]string
	Failover       *strategy.Failover
	Balancer       *strategy.Balancer
	Locality       *strategy.LocalityMode
	Weights        map[string]uint32
	Failback       *strategy.Failback
	RecoverAll     *bool
	Retry          *strategy.Retry
	Broadcast      *strategy.BroadcastTerms
	StaleTTL       *time.Duration
	WarmUp         *time.Duration
	HashHeader     *string
}

// key is one key of a policy: whether it is stated, what becomes of it in what is in force, and
// how that reads.
type key struct {
	name   string
	stated func(*Settings) bool
	apply  func(*Settings, *strategy.Policy)
	value  func(*strategy.Policy) string
}

// allKeys are all of them, in the order in which a policy is written.
var allKeys = [...]key{
	{
		"strategy", func(s *Settings) bool { return s.Strategy != nil },
		func(s *Settings, p *strategy.Policy) { p.Strategy = *s.Strategy },
		func(p *strategy.Policy) string { return string(p.Strategy) },
	},
	{
		"override", func(s *Settings) bool { return s.OverrideDenied != nil },
		func(s *Settings, p *strategy.Policy) { p.OverrideDenied = *s.OverrideDenied },
		func(p *strategy.Policy) string { return overrideWord(p.OverrideDenied) },
	},
	{
		"externalOrder", func(s *Settings) bool { return s.ExternalOrder != nil },
		func(s *Settings, p *strategy.Policy) { p.ExternalOrder = s.ExternalOrder },
		func(p *strategy.Policy) string { return orderText(p.ExternalOrder) },
	},
	{
		"failover", func(s *Settings) bool { return s.Failover != nil },
		func(s *Settings, p *strategy.Policy) { p.Failover = *s.Failover },
		func(p *strategy.Policy) string { return failoverText(p.Failover) },
	},
	{
		"balancer", func(s *Settings) bool { return s.Balancer != nil },
		func(s *Settings, p *strategy.Policy) { p.Balancer = *s.Balancer },
		func(p *strategy.Policy) string { return string(p.Balancer) },
	},
	{
		"locality", func(s *Settings) bool { return s.Locality != nil },
		func(s *Settings, p *strategy.Policy) { p.Locality = *s.Locality },
		func(p *strategy.Policy) string { return string(p.Locality) },
	},
	{
		"weights", func(s *Settings) bool { return s.Weights != nil },
		func(s *Settings, p *strategy.Policy) { p.Weights = s.Weights },
		func(p *strategy.Policy) string { return weightsText(p.Weights) },
	},
	{
		"failback", func(s *Settings) bool { return s.Failback != nil },
		func(s *Settings, p *strategy.Policy) { p.Failback = *s.Failback },
		func(p *strategy.Policy) string { return failbackText(p.Failback) },
	},
	{
		"recoverAll", func(s *Settings) bool { return s.RecoverAll != nil },
		func(s *Settings, p *strategy.Policy) { p.RecoverAll = *s.RecoverAll },
		func(p *strategy.Policy) string { return strconv.FormatBool(p.RecoverAll) },
	},
	{
		"retry", func(s *Settings) bool { return s.Retry != nil },
		func(s *Settings, p *strategy.Policy) { p.Retry = *s.Retry },
		func(p *strategy.Policy) string { return retryText(p.Retry) },
	},
	{
		"broadcast", func(s *Settings) bool { return s.Broadcast != nil },
		func(s *Settings, p *strategy.Policy) { p.Broadcast = *s.Broadcast },
		func(p *strategy.Policy) string { return broadcastText(p.Broadcast) },
	},
	{
		"staleTTL", func(s *Settings) bool { return s.StaleTTL != nil },
		func(s *Settings, p *strategy.Policy) { p.StaleTTL = *s.StaleTTL },
		func(p *strategy.Policy) string { return durationText(p.StaleTTL) },
	},
	{
		"warmUp", func(s *Settings) bool { return s.WarmUp != nil },
		func(s *Settings, p *strategy.Policy) { p.WarmUp = *s.WarmUp },
		func(p *strategy.Policy) string { return durationText(p.WarmUp) },
	},
	{
		"hashHeader", func(s *Settings) bool { return s.HashHeader != nil },
		func(s *Settings, p *strategy.Policy) { p.HashHeader = *s.HashHeader },
		func(p *strategy.Policy) string { return p.HashHeader },
	},
}

// Keys lists the keys of a policy's settings in the order in which a policy is written.
func Keys() []string {
	list := make([]string, len(allKeys))
	for i := range allKeys {
		list[i] = allKeys[i].name
	}
	return list
}

// Stated lists the keys that s states, in the order of Keys.
func (s Settings) Stated() []string {
	var list []string
	for i := range allKeys {
		if allKeys[i].stated(&s) {
			list = append(list, allKeys[i].name)
		}
	}
	return list
}

// Empty reports whether s states nothing.
func (s Settings) Empty() bool { return len(s.Stated()) == 0 }

// Over gives p with what s states in its place. The two share what they point to.
func (s Settings) Over(p strategy.Policy) strategy.Policy {
	for i := range allKeys {
		if allKeys[i].stated(&s) {
			allKeys[i].apply(&s, &p)
		}
	}
	return p
}

// SettingsFromProto reads settings strictly, as FromProto does; nothing stated is fine. Its error
// is an Errors.
func SettingsFromProto(m *policyv1.Settings) (Settings, error) {
	r := &reader{}
	r.newer("", m.ProtoReflect())
	s := r.settings(m)
	if err := r.err(); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// Proto gives the settings as they are stored and sent.
func (s Settings) Proto() *policyv1.Settings {
	m := &policyv1.Settings{
		Strategy:   textOf(s.Strategy),
		Balancer:   textOf(s.Balancer),
		Locality:   textOf(s.Locality),
		RecoverAll: copyOf(s.RecoverAll),
		StaleTtl:   durationOf(s.StaleTTL),
		WarmUp:     durationOf(s.WarmUp),
		HashHeader: copyOf(s.HashHeader),
	}
	if s.OverrideDenied != nil {
		word := overrideWord(*s.OverrideDenied)
		m.Override = &word
	}
	if s.ExternalOrder != nil {
		m.ExternalOrder = &policyv1.ExternalOrder{}
		for _, pool := range s.ExternalOrder {
			m.ExternalOrder.Pools = append(m.ExternalOrder.Pools, &policyv1.Pool{Clusters: slices.Clone(pool)})
		}
	}
	if f := s.Failover; f != nil {
		m.Failover = &policyv1.Failover{Threshold: f.Threshold, MinAvailable: f.MinAvailable, Mode: string(f.Mode)}
	}
	if s.Weights != nil {
		m.Weights = &policyv1.Weights{Clusters: maps.Clone(s.Weights)}
	}
	if f := s.Failback; f != nil {
		m.Failback = &policyv1.Failback{Hold: durationpb.New(f.Hold), Ramp: durationpb.New(f.Ramp)}
	}
	if f := s.Retry; f != nil {
		m.Retry = &policyv1.Retry{Attempts: f.Attempts, Idempotent: slices.Clone(f.Idempotent)}
	}
	if b := s.Broadcast; b != nil {
		m.Broadcast = &policyv1.Broadcast{
			MinSuccess: b.MinSuccess, TargetTimeout: durationpb.New(b.TargetTimeout), MaxParallel: b.MaxParallel,
		}
	}
	return m
}

func textOf[T ~string](word *T) *string {
	if word == nil {
		return nil
	}
	s := string(*word)
	return &s
}

func copyOf[T any](v *T) *T {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

func durationOf(d *time.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(*d)
}

// The texts of the settings, as a policy in YAML would have them.

func overrideWord(denied bool) string {
	if denied {
		return deny
	}
	return allow
}

func orderText(order [][]string) string {
	if len(order) == 0 {
		return `[["*"]]`
	}
	pools := make([]string, len(order))
	for i, pool := range order {
		entries := slices.Clone(pool)
		for j, e := range entries {
			if e == AnyCluster {
				entries[j] = `"*"`
			}
		}
		pools[i] = "[" + strings.Join(entries, ", ") + "]"
	}
	return "[" + strings.Join(pools, ", ") + "]"
}

func failoverText(f strategy.Failover) string {
	return "{threshold: " + number(f.Threshold) + ", minAvailable: " + number(f.MinAvailable) + ", mode: " + string(f.Mode) + "}"
}

func weightsText(w map[string]uint32) string {
	list := slices.Sorted(maps.Keys(w))
	for i, c := range list {
		list[i] = c + ": " + number(w[c])
	}
	return "{" + strings.Join(list, ", ") + "}"
}

func failbackText(f strategy.Failback) string {
	return "{hold: " + durationText(f.Hold) + ", ramp: " + durationText(f.Ramp) + "}"
}

func retryText(t strategy.Retry) string {
	return "{attempts: " + number(t.Attempts) + ", idempotent: [" + strings.Join(t.Idempotent, ", ") + "]}"
}

func broadcastText(b strategy.BroadcastTerms) string {
	least := "all"
	if b.MinSuccess > 0 {
		least = number(b.MinSuccess)
	}
	return "{minSuccess: " + least + ", targetTimeout: " + durationText(b.TargetTimeout) + ", maxParallel: " + number(b.MaxParallel) + "}"
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// durationText gives 24h rather than 24h0m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
