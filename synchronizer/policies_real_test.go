//go:build real

package synchronizer

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// Two replicas of one federation take policies at the same time, and each of them says who follows
// either. What is wiped under them they write back.
func TestRealPoliciesOfTwoReplicas(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	replicas := make([]*replica, 2)
	for n := range replicas {
		replicas[n] = startOn(t, fmt.Sprint("r", n+1), store.Config{Federation: "test", Etcd: &store.EtcdConfig{Endpoints: etcd.Endpoints}}, nil)
		newFollower(t, fmt.Sprint("n", n+1)).follow(t, replicas[n])
	}
	for _, r := range replicas {
		r.wantPolicies(t, "both replicas' agents are counted", "2/2", 0)
	}
	ctx := testkit.Context(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	overlapping := 0
	for n := range 4 {
		for i, r := range replicas {
			all.Go(func() {
				if _, err := r.admin.PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: stating(fmt.Sprintf("svc-%d-%d", n, i), "any")}); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				_, err := r.admin.PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: stating("cart", "any", "east", fmt.Sprintf("c-%d-%d", n, i))})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					overlapping++
				case reason(err) != "InvalidArgument BAD_POLICY":
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if overlapping != 1 {
		t.Errorf("%d overlapping policies were written", overlapping)
	}
	var want []string
	for _, s := range []string{"cart", "svc-0-0", "svc-0-1", "svc-1-0", "svc-1-1", "svc-2-0", "svc-2-1", "svc-3-0", "svc-3-1"} {
		want = append(want, s+"=any")
	}
	listed := strings.Join(append(want, "2/2"), " ")
	for _, r := range replicas {
		r.wantPolicies(t, "both list the same", listed, 9)
	}

	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	etcd.Delete(schema.Format(keys.Key{Kind: keys.Store}))
	etcd.Delete(schema.Format(keys.Key{Kind: keys.PoliciesSynced}))
	list, err := replicas[0].admin.ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.GetPolicies() {
		from := "*"
		if len(p.GetPolicy().GetFrom()) > 0 {
			from = strings.Join(p.GetPolicy().GetFrom(), ",")
		}
		etcd.Delete(schema.Format(keys.Key{Kind: keys.Policy, ID: "service/default/" + p.GetPolicy().GetTarget().GetService() + "/" + from}))
	}
	for _, r := range replicas {
		r.put(t, stating("zoo", "any"))
		r.wantPolicies(t, "both have all of them again", strings.Join(append(want, "zoo=any", "2/2"), " "), 10)
	}
}
