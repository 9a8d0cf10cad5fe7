package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
)

// policyChapter moves live calls by a policy, and out of a cluster by a cordon. The calls name no
// strategy: they do as they are told.
func (d *demoWorld) policyChapter(ctx context.Context, _ []expectation) error {
	conn, err := grpc.NewClient(d.admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it holds nothing that could be lost
	api := adminv1.NewAdminClient(conn)
	target := &policyv1.Target{Service: "cart"}
	d.say("\nA policy says of cart: external-first, and edge before west; calls name no strategy any more")
	if _, err := api.PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: &policyv1.Policy{
		Target: target,
		Settings: &policyv1.Settings{
			Strategy:      proto.String("external-first"),
			ExternalOrder: &policyv1.ExternalOrder{Pools: []*policyv1.Pool{{Clusters: []string{"edge"}}, {Clusters: []string{"*"}}}},
		},
	}}); err != nil {
		return err
	}
	if err := d.moves(ctx, "edge"); err != nil {
		return err
	}
	d.say("edge is cordoned")
	if _, err := api.Cordon(ctx, &adminv1.CordonRequest{Cordon: &policyv1.Cordon{Cluster: "edge", Reason: "the demo"}}); err != nil {
		return err
	}
	if err := d.moves(ctx, "west"); err != nil {
		return err
	}
	d.say("Both are taken back")
	if _, err := api.Uncordon(ctx, &adminv1.UncordonRequest{Cluster: "edge"}); err != nil {
		return err
	}
	if _, err := api.DeletePolicy(ctx, &adminv1.DeletePolicyRequest{Target: target}); err != nil {
		return err
	}
	return d.moves(ctx, "east")
}

// moves waits until calls without a word of their own are served by a cluster, and shows some of
// them with the reason that their answers give.
func (d *demoWorld) moves(ctx context.Context, cluster string) error {
	began := time.Now()
	if err := within(ctx, 10*time.Second, "calls to move to "+cluster, func(ctx context.Context) error {
		a, err := d.call(ctx, nil)
		if err == nil && a.cluster() != cluster {
			err = fmt.Errorf("still served by %s", a.servedBy)
		}
		return err
	}); err != nil {
		return err
	}
	took := time.Since(began).Round(time.Millisecond)
	var words []string
	why, mark := "", "ok"
	for range calls {
		a, err := d.call(ctx, nil)
		if err != nil {
			return err
		}
		words, why = append(words, a.servedBy), a.why
		if a.status != http.StatusOK || a.cluster() != cluster {
			mark = "WRONG, want " + cluster
			d.missed++
		}
	}
	d.say("  after %-9s %s  %s\n    because: %s", took, strings.Join(fold(words), ", "), mark, why)
	return nil
}
