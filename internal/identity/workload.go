package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// againAfter is how soon a Workload API is asked anew that wanted nothing more to do with us.
const againAfter = 5 * time.Second

// followWorkloadAPI takes what a Workload API says until ctx is done and returns ctx.Err(). While that
// cannot be reached it is tried again, for ever.
func (s *Source) followWorkloadAPI(ctx context.Context) error {
	again := time.NewTicker(againAfter)
	defer again.Stop()
	w := &workload{s: s}
	for {
		// The client itself tries again, with pauses, what may become better by itself.
		err := workloadapi.WatchX509Context(ctx, w, workloadapi.WithAddr(s.cfg.WorkloadAPI))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.OnX509ContextWatchError(err)
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// workload takes what the Workload API says. Its methods are called by one goroutine.
type workload struct {
	s    *Source
	said string // the last error that was logged: a socket that stays away is news once
}

var _ workloadapi.X509ContextWatcher = (*workload)(nil)

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w *workload) OnX509ContextUpdate(c *workloadapi.X509Context) {
	w.said = ""
	w.s.changed(w.take(c))
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w *workload) OnX509ContextWatchError(err error) {
	if word := err.Error(); word != w.said {
		w.said = word
		w.s.log.Warn("the Workload API does not answer; the last good identity stays in force", "socket", w.s.cfg.WorkloadAPI, "error", err)
	}
}

// take puts the first of the identities in force that is this process's.
func (w *workload) take(c *workloadapi.X509Context) error {
	var svid *x509svid.SVID
	var why error
	for _, one := range c.SVIDs {
		id, err := parse(one.ID)
		if err == nil {
			err = w.s.cfg.Self.check(id)
		}
		if err == nil {
			svid = one
			break
		}
		if why == nil {
			why = err
		}
	}
	if svid == nil {
		return fmt.Errorf("none of the %d identities of the Workload API is this process's: %w", len(c.SVIDs), why)
	}
	bundle, err := c.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return err
	}
	return w.s.use(svid.Certificates, svid.PrivateKey, bundle.X509Authorities())
}
