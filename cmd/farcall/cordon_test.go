package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
)

func TestCordonAndUncordon(t *testing.T) {
	for _, c := range []struct {
		args           []string
		stdout, stderr string
		want           proto.Message
	}{
		{
			[]string{"cordon", "west", "--for", "30m", "--reason", "new switches"},
			"cluster west: cordoned at revision 10, ends in 30m00s\n", "applied by 3 of 3 agents\n",
			&adminv1.CordonRequest{Cordon: &policyv1.Cordon{Cluster: "west", Reason: "new switches", Author: author()}, Ttl: durationpb.New(30 * time.Minute)},
		},
		{
			[]string{"cordon", "wset", "cart.shop", "--wait=false"},
			"service shop/cart in wset: cordoned at revision 10\n",
			"warning: service shop/cart in wset: nobody has heard of a cluster \"wset\"; did you mean \"west\"?\n",
			&adminv1.CordonRequest{Cordon: &policyv1.Cordon{Cluster: "wset", Namespace: "shop", Service: "cart", Author: author()}},
		},
		{
			[]string{"uncordon", "west"}, "cluster west: uncordoned at revision 10\n", "applied by 3 of 3 agents\n",
			&adminv1.UncordonRequest{Cluster: "west"},
		},
		{
			[]string{"uncordon", "west", "shop/cart"}, "service shop/cart in west: uncordoned at revision 10\n", "applied by 3 of 3 agents\n",
			&adminv1.UncordonRequest{Cluster: "west", Namespace: "shop", Service: "cart"},
		},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			f := &fakeAdmin{}
			r := farcall(t, "", append([]string{"--server", serve(t, f)}, c.args...)...)
			r.want(t, exitOK)
			if r.stdout != c.stdout || r.stderr != c.stderr {
				t.Errorf("stdout %q, want %q; stderr %q, want %q", r.stdout, c.stdout, r.stderr, c.stderr)
			}
			f.sent(t, c.want)
		})
	}
}

func TestCordonAsJSON(t *testing.T) {
	f := &fakeAdmin{}
	r := farcall(t, "", "--server", serve(t, f), "cordon", "wset", "-o", "json")
	r.want(t, exitOK)
	got := &adminv1.CordonResponse{}
	if err := protojson.Unmarshal([]byte(r.stdout), got); err != nil || got.GetCordon().GetRevision() != 10 || len(got.GetWarnings()) != 1 || r.stderr != "" {
		t.Errorf("%v: stdout %s, stderr %s", err, r.stdout, r.stderr)
	}
}

func TestUncordonOfWhatIsNot(t *testing.T) {
	r := farcall(t, "", "--server", serve(t, &fakeAdmin{}), "uncordon", "east", "cart")
	r.want(t, exitRefused, "farcall: uncordon east default/cart: not found: nothing is cordoned there")
}
