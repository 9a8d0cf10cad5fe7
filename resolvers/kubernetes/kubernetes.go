// Package kubernetes reads the Services and EndpointSlices of one Kubernetes cluster, those that
// opted in, and keeps up with them by watches.
//
// It is not a controller: it writes nothing and reads no Pods. It maps no namespaces, applies
// no include patterns and judges no removal; intake and guard do. Client-go's informers are not
// used: they answer a broken watch with a list, which would turn the deletions of the meantime,
// that a resumed watch tells one by one, into mere absences. README.md says more.
//
// Goroutines: Resolver.Run starts one watcher for each table that it reads, and one probe at a
// time. It joins them all before it returns.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// Config says which cluster is read and which of its Services are taken.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file; when empty, the credentials that Kubernetes
	// gives to pods are used. It is read again when they are refused, and when the file is another
	// one and the API server does not answer.
	Kubeconfig string
	// Context is which of the kubeconfig's contexts; its current one when empty.
	Context string
	// WatchNamespaces are the namespaces to read, each with a list and a watch of its own, so that
	// a Role in each of them is enough. None: the whole cluster, which takes a ClusterRole.
	WatchNamespaces []string
	// ExportSelector is a label selector, and ExportNamespaces are patterns (path.Match) over
	// namespaces: the Services that match one of them are taken, besides those annotated
	// farcall.io/export: "true". The annotation with "false" is stronger than both.
	ExportSelector   string
	ExportNamespaces []string
	// Regions reads the labels of Nodes, for the region (and the zone, where an EndpointSlice
	// states none) of each instance. It takes one more right: deploy/kubernetes/rbac.yaml.
	Regions bool
}

// Validate gives every fault of the configuration at once, or nil. It touches no file.
func (c Config) Validate() error {
	var errs []error
	if c.Context != "" && c.Kubeconfig == "" {
		errs = append(errs, fmt.Errorf("context %q without kubeconfig: a pod's own credentials have no contexts", c.Context))
	}
	if _, err := labels.Parse(c.ExportSelector); err != nil {
		errs = append(errs, fmt.Errorf("exportSelector: %q: %w", c.ExportSelector, err))
	}
	for i, ns := range c.WatchNamespaces {
		if bad := validation.IsDNS1123Label(ns); bad != nil {
			errs = append(errs, fmt.Errorf("watchNamespaces: %q: %s", ns, bad[0]))
		}
		if slices.Contains(c.WatchNamespaces[:i], ns) {
			errs = append(errs, fmt.Errorf("watchNamespaces: %q is there twice", ns))
		}
	}
	for _, p := range c.ExportNamespaces {
		if _, err := path.Match(p, ""); err != nil {
			errs = append(errs, fmt.Errorf("exportNamespaces: pattern %q: %w", p, err))
			continue
		}
		reads := func(ns string) bool {
			ok, err := path.Match(p, ns)
			return ok && err == nil
		}
		if len(c.WatchNamespaces) > 0 && !slices.ContainsFunc(c.WatchNamespaces, reads) {
			errs = append(errs, fmt.Errorf("exportNamespaces: %q matches none of watchNamespaces (%s), so nothing of it is read",
				p, strings.Join(c.WatchNamespaces, ", ")))
		}
	}
	return errors.Join(errs...)
}

// Deps are what a Resolver needs from its process.
type Deps struct {
	Log *slog.Logger
	// Metrics is shared by every Kubernetes cluster of the process.
	Metrics *Metrics
	// Registry is what the metrics call this cluster; one of a bounded set, as configured.
	Registry string
}

// Resolver reads one cluster. It keeps no list across Runs, but remembers how far it had read
// of which cluster, so that a restored or exchanged one is told even after a pause.
type Resolver struct {
	cfg     Config
	rule    rule
	log     *slog.Logger
	metrics *Metrics
	name    string

	// All below is Run's alone.

	seen seen
	// reset says why the cluster looks like another one; it waits here for the next Full.
	reset string
}

var _ resolvers.Resolver = (*Resolver)(nil)

// takeKlog makes ours what client-go logs without a context, which is little. There is one such
// log in a process, and it may be exchanged only while nobody writes to it: so the first Resolver
// that is made does it.
var takeKlog sync.Once

// New makes a Resolver. It reads the kubeconfig and the files that this names, and connects to
// nothing.
func New(cfg Config, deps Deps) (*Resolver, error) {
	takeKlog.Do(func() { klog.SetSlogLogger(deps.Log.With("from", "client-go")) })
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	r := &Resolver{cfg: cfg, log: deps.Log, metrics: deps.Metrics, name: deps.Registry}
	r.rule.namespaces = cfg.ExportNamespaces
	if cfg.ExportSelector != "" {
		r.rule.selector, _ = labels.Parse(cfg.ExportSelector) // Validate refused what is none
	}
	c, err := r.connect(context.Background())
	if err != nil {
		return nil, err
	}
	c.close()
	return r, nil
}

// Run implements resolvers.Resolver. It goes on through every failure of the API server,
// telling the Sink, and returns only with ctx.
func (r *Resolver) Run(ctx context.Context, out resolvers.Sink) error {
	ours := r.log.With("from", "client-go", "registry", r.name)
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(ours.Handler()))
	var wait backoff
	for ctx.Err() == nil {
		read, err := r.round(ctx, out)
		if read {
			wait = backoff{}
		}
		if err != nil && ctx.Err() == nil {
			out.Failed(err)
		}
		// Whatever ended the round, everything is not to be read in a tight loop.
		pause(ctx, wait.next())
	}
	return ctx.Err()
}

// round reads everything over connections of its own, publishes it, and keeps it up to date
// until it has to be read again. It reports whether it came to publish.
func (r *Resolver) round(ctx context.Context, out resolvers.Sink) (read bool, err error) {
	c, err := r.connect(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	l, at, err := r.full(ctx, c, out)
	if err != nil {
		return false, err
	}
	return true, r.follow(ctx, c, out, l, at)
}

// full reads every table to its end and publishes that as one Full update, or nothing.
func (r *Resolver) full(ctx context.Context, c *connection, out resolvers.Sink) (*ledger, map[*table]string, error) {
	began := time.Now()
	l := newLedger(r.rule)
	at := make(map[*table]string, len(c.tables))
	for _, t := range c.tables {
		revision, err := c.list(ctx, t, l.take)
		if err != nil {
			return nil, nil, err
		}
		at[t] = revision
	}
	r.suspect(r.seen.compare(at, l.cluster))
	if r.reset != "" {
		r.seen = seen{} // a cluster that begins has no Service default/kubernetes yet, and tells of it later
	}
	r.seen.replace(at, l.cluster)
	u := catalog.Update{Full: true, Snapshots: l.everything(), Reset: r.reset, Revision: r.seen.revision()}
	if r.reset != "" {
		r.metrics.resets.WithLabelValues(r.name).Inc()
		r.log.Info("kubernetes looks like another cluster: read all of it again", "registry", r.name, "reason", r.reset)
		r.reset = ""
	}
	out.Publish(u)
	r.log.Debug("kubernetes was read", "registry", r.name, "revision", u.Revision, "took", time.Since(began))
	return l, at, nil
}

// suspect keeps the reason why the cluster looks like another one until the next Full update
// carries it.
func (r *Resolver) suspect(reason string) {
	switch {
	case reason == "" || strings.Contains(r.reset, reason):
	case r.reset == "":
		r.reset = reason
	default:
		r.reset += "; " + reason
	}
}

// pause waits for d or for ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// backoff gives ever longer pauses; its zero value begins.
type backoff struct{ d time.Duration }

const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 2 * time.Second
)

// next gives the next pause: between half and the whole of a span that doubles.
func (b *backoff) next() time.Duration {
	b.d = min(max(2*b.d, backoffFirst), backoffMost)
	return b.d/2 + rand.N(b.d/2+1)
}
