package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// AnyCluster in externalOrder stands for all clusters that no other entry takes.
const AnyCluster = "*"

// Bounds of what one policy may say.
const (
	maxAttempts = 10
	// maxWeight keeps the weight of an instance times that of its cluster, summed over all
	// instances, within 64 bits.
	maxWeight = catalog.MaxInstanceWeight
	// maxText bounds what is written for people, in bytes.
	maxText = 1024
)

// The words of override.
const (
	allow = "allow"
	deny  = "deny"
)

var (
	overrides  = []string{allow, deny}
	modes      = []strategy.FailoverMode{strategy.Spill, strategy.Strict}
	localities = []strategy.LocalityMode{strategy.LocalityNone, strategy.LocalityPrefer, strategy.LocalityStrict}
	balancers  = []strategy.Balancer{
		strategy.LeastRequest, strategy.RoundRobin, strategy.Random, strategy.Weighted, strategy.RingHash,
	}
	// methods are those that HTTP defines (RFC 9110, RFC 5789), but for CONNECT, which is not
	// forwarded.
	methods = []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)

func (r *reader) target(m *policyv1.Target) Target {
	t := Target{Name: catalog.Name{Namespace: m.GetNamespace(), Service: m.GetService()}, Cluster: m.GetCluster()}
	if t.Name.Service != "" && t.Name.Namespace == "" {
		t.Name.Namespace = catalog.DefaultNamespace
	}
	err := t.Check()
	if err == nil {
		return t
	}
	path := ""
	switch named := t.Name != (catalog.Name{}); {
	case t.Cluster != "" && !named:
		path = "cluster"
	case t.Cluster == "" && t.Name.Service != "" && checkNamespace(t.Name.Namespace) == nil:
		path = "service"
	case t.Cluster == "" && named:
		path = "namespace"
	}
	r.addf(path, "%v", err)
	return t
}

func (r *reader) from(clusters []string) []string {
	for i, c := range clusters {
		at := fmt.Sprintf("from[%d]", i)
		if err := catalog.CheckClusterName(c); err != nil {
			r.addf(at, "%v", err)
		} else if slices.Index(clusters, c) < i {
			r.addf(at, "%q is named twice", c)
		}
	}
	return sorted(clusters)
}

// settings reads m, which may be nil.
func (r *reader) settings(m *policyv1.Settings) Settings {
	var s Settings
	if m == nil {
		return s
	}
	r.words(m, &s)
	if m.ExternalOrder != nil {
		s.ExternalOrder = r.order(m.ExternalOrder)
	}
	if m.Failover != nil {
		s.Failover = r.failover(m.Failover)
	}
	if m.Weights != nil {
		s.Weights = r.weights(m.Weights, s.ExternalOrder)
	}
	if m.Failback != nil {
		s.Failback = &strategy.Failback{
			Hold: r.duration("failback.hold", m.Failback.GetHold()),
			Ramp: r.duration("failback.ramp", m.Failback.GetRamp()),
		}
	}
	s.RecoverAll = copyOf(m.RecoverAll)
	if m.Retry != nil {
		s.Retry = r.retry(m.Retry)
	}
	if m.Broadcast != nil {
		s.Broadcast = r.broadcast(m.Broadcast)
	}
	if m.StaleTtl != nil {
		d := r.duration("staleTTL", m.StaleTtl)
		s.StaleTTL = &d
	}
	if m.WarmUp != nil {
		d := r.duration("warmUp", m.WarmUp)
		s.WarmUp = &d
	}
	return s
}

func (r *reader) words(m *policyv1.Settings, s *Settings) {
	if m.Strategy != nil {
		kind, err := strategy.Parse(m.GetStrategy())
		if err != nil {
			r.addf("strategy", "%v", err)
		}
		s.Strategy = &kind
	}
	if m.Override != nil {
		denied := oneOf(r, "override", m.GetOverride(), overrides) == deny
		s.OverrideDenied = &denied
	}
	if m.Balancer != nil {
		b := oneOf(r, "balancer", m.GetBalancer(), balancers)
		s.Balancer = &b
		if b == strategy.RingHash && m.HashHeader == nil {
			r.addf("balancer", "ring-hash needs hashHeader beside it: the name of the request header whose value decides, for example hashHeader: x-user")
		}
	}
	if m.Locality != nil {
		l := oneOf(r, "locality", m.GetLocality(), localities)
		s.Locality = &l
	}
	if m.HashHeader != nil {
		h := r.header("hashHeader", m.GetHashHeader())
		s.HashHeader = &h
	}
}

// order reads externalOrder. An entry that stands twice would be taken by the first of the two,
// which is hardly what was meant.
func (r *reader) order(m *policyv1.ExternalOrder) [][]string {
	if len(m.GetPools()) == 0 {
		r.addf("externalOrder", `has no pool: want at least one, for example [["*"]]`)
	}
	seen := map[string]string{}
	order := make([][]string, 0, len(m.GetPools()))
	for i, pool := range m.GetPools() {
		at := fmt.Sprintf("externalOrder[%d]", i)
		if len(pool.GetClusters()) == 0 {
			r.addf(at, `is an empty pool: want the name of a cluster, a property such as region=eu, or "*"`)
		}
		for j, entry := range pool.GetClusters() {
			at := fmt.Sprintf("%s[%d]", at, j)
			if err := checkEntry(entry); err != nil {
				r.addf(at, "%v", err)
			} else if first, twice := seen[entry]; twice {
				r.addf(at, "%q is named in %s already", entry, first)
			} else {
				seen[entry] = at
			}
		}
		order = append(order, slices.Clone(pool.GetClusters()))
	}
	return order
}

// checkEntry says why s cannot stand in externalOrder, or nil.
func checkEntry(s string) error {
	if s == AnyCluster {
		return nil
	}
	name, value, property := strings.Cut(s, "=")
	if !property {
		if err := catalog.CheckClusterName(s); err != nil {
			return fmt.Errorf(`%w; also accepted are "*" and a property such as region=eu`, err)
		}
		return nil
	}
	for _, w := range []string{name, value} {
		if w == "" || len(w) > catalog.MaxNameLength || !utf8.ValidString(w) || strings.TrimSpace(w) != w || strings.ContainsFunc(w, unicode.IsControl) {
			return fmt.Errorf("%s is not a property: want key=value, for example region=eu, zone=eu-1, or a label of the clusters", quote(s))
		}
	}
	return nil
}

func (r *reader) failover(m *policyv1.Failover) *strategy.Failover {
	f := &strategy.Failover{Threshold: m.GetThreshold(), MinAvailable: max(m.GetMinAvailable(), 1), Mode: strategy.Spill}
	if f.Threshold > 100 {
		r.addf("failover.threshold", "%d is not in 0 to 100: it is the percentage of the known instances that must be available", f.Threshold)
	}
	if m.GetMode() != "" {
		f.Mode = oneOf(r, "failover.mode", m.GetMode(), modes)
	}
	return f
}

// weights reads weights; order is the externalOrder that stands beside them, if any.
func (r *reader) weights(m *policyv1.Weights, order [][]string) map[string]uint32 {
	w := make(map[string]uint32, len(m.GetClusters()))
	sum := uint64(0)
	for _, c := range slices.Sorted(maps.Keys(m.GetClusters())) {
		weight := m.GetClusters()[c]
		if err := catalog.CheckClusterName(c); err != nil {
			r.addf("weights", "%v", err)
		} else if weight > maxWeight {
			r.addf("weights."+c, "%d is above %d", weight, maxWeight)
		}
		w[c], sum = weight, sum+uint64(weight)
	}
	if len(w) > 0 && sum == 0 {
		r.addf("weights", "sum to zero: want at least one above 0; to send no calls to a cluster, cordon it or leave it out of externalOrder")
		return w
	}
	for i, pool := range order {
		if len(pool) > 0 && !slices.ContainsFunc(pool, func(c string) bool {
			weight, named := w[c]
			return !named || weight > 0
		}) {
			r.addf(fmt.Sprintf("externalOrder[%d]", i), "is a pool whose weights sum to zero: no call could go there; leave it out, or give one of its clusters a weight above 0")
		}
	}
	return w
}

func (r *reader) retry(m *policyv1.Retry) *strategy.Retry {
	t := &strategy.Retry{Attempts: m.GetAttempts(), Idempotent: slices.Clone(m.GetIdempotent())}
	if t.Attempts == 0 {
		t.Attempts = strategy.Defaults().Retry.Attempts
	}
	if t.Attempts > maxAttempts {
		r.addf("retry.attempts", "%d is above %d", t.Attempts, maxAttempts)
	}
	for i, method := range t.Idempotent {
		at := fmt.Sprintf("retry.idempotent[%d]", i)
		if oneOf(r, at, method, methods) != "" && slices.Index(t.Idempotent, method) < i {
			r.addf(at, "%q is named twice", method)
		}
	}
	return t
}

func (r *reader) broadcast(m *policyv1.Broadcast) *strategy.BroadcastTerms {
	b := strategy.Defaults().Broadcast
	b.MinSuccess = m.GetMinSuccess()
	if m.GetMaxParallel() > 0 {
		b.MaxParallel = m.GetMaxParallel()
	}
	if m.GetTargetTimeout() != nil {
		const at = "broadcast.targetTimeout"
		if b.TargetTimeout = r.duration(at, m.GetTargetTimeout()); b.TargetTimeout == 0 && !r.has(at) {
			r.addf(at, "0s is no time to answer in: want more, for example 10s")
		}
	}
	return &b
}

// has reports whether a mistake at a path is known already.
func (r *reader) has(path string) bool {
	return slices.ContainsFunc(r.errs, func(e FieldError) bool { return e.Path == path })
}

// header reads the name of a request header (RFC 9110, 5.1) and gives it in lower case, as gRPC
// writes it.
func (r *reader) header(path, s string) string {
	token := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c < utf8.RuneSelf && strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	}
	if s == "" || len(s) > catalog.MaxNameLength || strings.ContainsFunc(s, func(c rune) bool { return !token(c) }) {
		r.addf(path, "%s is not the name of a request header: want one such as x-user", quote(s))
	}
	return strings.ToLower(s)
}

// duration reads a span of time, nil for none, that is not negative.
func (r *reader) duration(path string, m *durationpb.Duration) time.Duration {
	if m == nil {
		return 0
	}
	d := m.AsDuration()
	switch {
	case m.CheckValid() != nil || durationpb.New(d).Seconds != m.GetSeconds():
		r.addf(path, "is not a span of time that a machine can measure")
	case d < 0:
		r.addf(path, "%s is negative: want 0s or more", d)
	default:
		return d
	}
	return 0
}

// text reads what is written for people and may end up in a header or a table.
func (r *reader) text(path, s string) string {
	switch {
	case len(s) > maxText:
		r.addf(path, "of %d bytes is longer than %d", len(s), maxText)
	case !utf8.ValidString(s):
		r.addf(path, "is not UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		r.addf(path, "has a control character")
	}
	return s
}

// timestamp reads a moment, nil for none.
func (r *reader) timestamp(path string, m *timestamppb.Timestamp) time.Time {
	if m == nil {
		return time.Time{}
	}
	if err := m.CheckValid(); err != nil {
		r.addf(path, "is not a moment: want a year from 1 to 9999")
		return time.Time{}
	}
	return m.AsTime()
}

// timestamp is the inverse of reader.timestamp.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
