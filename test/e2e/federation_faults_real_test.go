//go:build real && linux

package e2e

import (
	"fmt"
	"slices"
	"testing"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// A registry that is stopped, hangs, comes back empty or is emptied takes nothing out of any
// list: calls go on, its status says in a line what a person can do, and it is read again soon
// after its return.
func TestRealNoFailingRegistryEmptiesAList(t *testing.T) {
	if !testkit.Inside(t) {
		return
	}
	f := newFederation(t)
	f.listInDNS(8)
	f.lists("legacy", 8)
	for _, c := range []struct {
		what              string
		cluster, registry string
		breaks, mends     func()
		words             []string // of its line in `farcall get clusters`
	}{
		{"Consul hangs", "vms", "consul", f.vms.Pause, f.vms.Resume, []string{"1 instance"}},
		{"Consul dies and forgets all", "vms", "consul", f.vms.Kill, f.vms.Start, []string{"refused", "1 instance"}},
		{"the Consul beside Kubernetes dies and forgets all", "kube", "consul", f.beside.Kill, func() {
			f.beside.Start()
			f.is("kube", catalogv1.ClusterState_PROTECTED)
			f.calls()
			f.register("cart-vm", f.vmPort)
		}, []string{"refused", "1 instance"}},
		{"Kubernetes hangs", "kube", "kubernetes", f.kubernetes.Pause, f.kubernetes.Resume, []string{"1 instance"}},
		{"Kubernetes restarts", "kube", "kubernetes", f.kubernetes.Kill, f.kubernetes.Start, []string{"refused", "1 instance"}},
		{"the DNS server hangs", "legacy", "dns", f.dns.Pause, f.dns.Resume, []string{"_cart._tcp.legacy.test.", "8 instances"}},
		{"the DNS server restarts", "legacy", "dns", f.dns.Kill, f.dns.Start, []string{"_cart._tcp.legacy.test.", "8 instances"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			f.t = t
			before := f.mustList(c.cluster)
			c.breaks()
			f.fails(c.cluster, c.registry)
			for range 3 {
				f.calls()
			}
			f.same(c.cluster, before)
			f.explained(c.cluster, c.registry, c.words...)
			c.mends()
			f.recovers(c.cluster, c.registry)
			f.same(c.cluster, before)
			f.calls()
		})
	}
	t.Run("a zone is emptied", func(t *testing.T) {
		f.t = t
		f.dns.SetZone("legacy.test.")
		f.is("legacy", catalogv1.ClusterState_PROTECTED)
		f.lists("legacy", 8)
		f.calls()
		f.listInDNS(8)
		f.recovers("legacy", "dns")
		f.lists("legacy", 8)
	})
	t.Run("nobody hears the edge", func(t *testing.T) {
		f.t = t
		link := "mdns@" + f.edgeLink()
		before := f.mustList("edge")
		for _, h := range f.edge {
			h.LinkDown()
		}
		f.fails("edge", link)
		f.explained("edge", link, "2 instances")
		f.same("edge", before)
		for _, h := range f.edge {
			h.LinkUp()
		}
		f.recovers("edge", link)
		f.same("edge", before)
		f.reaches("vms", "edge")
		f.calls()
	})
}

func (f *federation) mustList(cluster string) []string {
	f.t.Helper()
	have, err := f.listed(cluster)
	if err != nil {
		f.t.Fatal(err)
	}
	return have
}

// same makes sure that a cluster lists what it listed before.
func (f *federation) same(cluster string, before []string) {
	f.t.Helper()
	if have := f.mustList(cluster); !slices.Equal(have, before) {
		f.t.Errorf("%s lists %q, before it was %q", cluster, have, before)
	}
}

// is waits until a cluster is in a state.
func (f *federation) is(cluster string, state catalogv1.ClusterState) {
	f.t.Helper()
	testkit.Eventually(f.t, testkit.Context(f.t), cluster+" is "+state.String(), func() error {
		resp, err := f.admin.ListClusters(f.t.Context(), &adminv1.ListClustersRequest{})
		for _, c := range resp.GetClusters() {
			if c.GetName() == cluster && c.GetState() != state {
				err = fmt.Errorf("it is %s", c.GetState())
			}
		}
		return err
	})
}
