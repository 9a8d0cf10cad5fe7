//go:build real && unix

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// nodeRegistry is a cluster's registry in a real Consul, where all of it is on one node of its
// catalogue, as who registers for others has it: with the node everything is gone at once.
type nodeRegistry struct{ *consulRegistry }

func (r nodeRegistry) put(id string, port int, _ string) { r.putAs("cart", id, port) }

func (r nodeRegistry) putAs(service, id string, port int) {
	_, err := r.client.Catalog().Register(&api.CatalogRegistration{
		Node: "apps", Address: "127.0.0.1", SkipNodeUpdate: true,
		Service: &api.AgentService{ID: id, Service: service, Address: "127.0.0.1", Port: port},
	}, nil)
	if err != nil {
		r.t.Error(err)
	}
}

func (r nodeRegistry) remove(id string) {
	if _, err := r.client.Catalog().Deregister(&api.CatalogDeregistration{Node: "apps", ServiceID: id}, nil); err != nil {
		r.t.Error(err)
	}
}

func (r nodeRegistry) empty() {
	if _, err := r.client.Catalog().Deregister(&api.CatalogDeregistration{Node: "apps"}, nil); err != nil {
		r.t.Error(err)
	}
}

// A Consul that held a dozen services is emptied by accident while calls go to all of them: they are
// held, no call is lost, a person sees what is held and why, and one command lets it go at every
// agent, also at those beside that Consul.
func TestRealConsulEmptiedByAccident(t *testing.T) {
	regs := map[string]nodeRegistry{}
	w := newWorld(t, options{
		hold: "10m",
		registry: func(name string) registry {
			regs[name] = nodeRegistry{newConsulRegistry(t)}
			return regs[name]
		},
	}, "east", "west")
	west := w.clusters["west"]
	services := []string{"cart"}
	for n := range 11 {
		name := fmt.Sprint("shop-", n+1)
		services = append(services, name)
		west.start(t, name)
		regs["west"].putAs(name, name, west.apps[name].port)
	}
	served := func(from, service string) error {
		a, err := w.call(from, http.MethodGet, service+"/method/x", "farcall-cluster: west")
		if err == nil && (a.status != http.StatusOK || a.cluster() != "west") {
			err = fmt.Errorf("%s from %s: %d by %q: %s", service, from, a.status, a.servedBy, a.body)
		}
		return err
	}
	each := func(f func(from, service string) error) error {
		for _, from := range []string{"east", "west"} {
			for _, service := range services {
				if err := f(from, service); err != nil {
					return err
				}
			}
		}
		return nil
	}
	testkit.Eventually(t, w.ctx, "every service is served to both", func() error { return each(served) })
	w.until("west", 13, catalogv1.ClusterState_SYNCED)

	stop, failed := make(chan struct{}), make(chan error, 1)
	calls := 0
	var calling sync.WaitGroup
	calling.Go(func() {
		for {
			err := each(func(from, service string) error {
				calls++
				return served(from, service)
			})
			if err != nil {
				failed <- err
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	regs["west"].empty()
	w.until("west", 13, catalogv1.ClusterState_PROTECTED)
	testkit.Eventually(t, w.ctx, "all of them are held", func() error {
		out, err := w.farcall("", "get", "holds")
		if n := strings.Count(out, "\nwest "); err == nil && n != 13 {
			err = fmt.Errorf("%d are: %s", n, out)
		}
		for _, want := range []string{"CLUSTER  REGISTRY", "default/cart", "cart-2", "shop-11", "catalogue", "all 13 instances of the registry were gone in one read"} {
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("it lacks %q: %s", want, out)
			}
		}
		return err
	})
	out, err := w.farcall("", "check")
	if err != nil || !strings.Contains(out, "farcall holds release west --registry consul") {
		t.Errorf("%v: check says\n%s", err, out)
	}
	// Emptiness that lasts confirms nothing, however often it is read.
	testkit.Eventually(t, w.ctx, "all of them are held for a few seconds", func() error {
		list, err := w.connect().ListHolds(w.ctx, &adminv1.ListHoldsRequest{Cluster: "west"})
		if err == nil && (len(list.GetHolds()) != 13 || time.Since(list.GetHolds()[0].GetSince().AsTime()) < 4*time.Second) {
			err = fmt.Errorf("%v", list)
		}
		return err
	})
	close(stop)
	calling.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
		t.Logf("%d calls", calls)
	}

	gone := func(from, service string) error {
		a, err := w.call(from, http.MethodGet, service+"/method/x", "farcall-cluster: west")
		if err == nil && a.status == http.StatusOK {
			err = fmt.Errorf("%s from %s is served by %q still", service, from, a.servedBy)
		}
		return err
	}
	if out, err = w.farcall("", "holds", "release", "west", "shop-3"); err != nil || !strings.Contains(out, "cluster west: 1 hold released by ") {
		t.Fatal(out, err)
	}
	testkit.Eventually(t, w.ctx, "the one is gone at both agents", func() error {
		return errors.Join(gone("east", "shop-3"), gone("west", "shop-3"))
	})
	if err := errors.Join(served("east", "shop-4"), served("west", "shop-4")); err != nil {
		t.Error(err)
	}
	if out, err = w.farcall("", "holds", "release", "west"); err != nil || !strings.Contains(out, "cluster west: 12 holds released by ") {
		t.Fatal(out, err)
	}
	began := time.Now()
	testkit.Eventually(t, w.ctx, "all are gone at both agents", func() error { return each(gone) })
	t.Logf("gone everywhere %s after the release", time.Since(began).Round(time.Millisecond))
	w.until("west", 0, catalogv1.ClusterState_SYNCED)
	if out, err = w.farcall("", "holds", "release", "west"); err == nil || !strings.Contains(err.Error(), "there is no hold in cluster west") {
		t.Error(out, err)
	}

	// What was let go by mistake is back with the registry.
	regs["west"].putAs("shop-3", "shop-3", west.apps["shop-3"].port)
	testkit.Eventually(t, w.ctx, "it is back at both", func() error {
		return errors.Join(served("east", "shop-3"), served("west", "shop-3"))
	})
}
