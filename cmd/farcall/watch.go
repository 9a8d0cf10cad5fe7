package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
)

func (c *cli) watchCommand() *cobra.Command {
	return group("watch", "List, then follow every change until ^C", c.watchInstances())
}

func (c *cli) watchInstances() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "List the instances, then print every change until ^C",
		Long: "Lists the instances, then prints every change, one a line, until ^C, which is success.\n\n" +
			"With -o json every line is one JSON object; with -o yaml every change is a document.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			health, err := f.healths()
			if err != nil {
				return err
			}
			err = c.ask("watch instances", func(a *admin) error {
				stream, err := a.WatchInstances(cmd.Context(), &adminv1.WatchInstancesRequest{
					Cluster: f.cluster, Namespace: f.namespace, Service: f.service, Health: health,
				})
				if err != nil {
					return err
				}
				return c.follow(stream.Recv)
			})
			if cmd.Context().Err() == nil {
				return err
			}
			return nil // ^C is how a watch ends
		},
	}
	f.clusterFlag(cmd)
	f.namespaceFlag(cmd)
	f.instanceFlags(cmd)
	return cmd
}

// watchLine has fixed columns: a stream is never complete, so no width can be measured.
const watchLine = "%-8s  %-12s  %-24s  %-28s  %-21s  %s\n"

// follow prints what next gives until it fails. A server that ends a watch has gone away.
func (c *cli) follow(next func() (*adminv1.WatchInstancesResponse, error)) error {
	if c.output == formatTable {
		fmt.Fprintf(c.stdout, watchLine, "EVENT", "CLUSTER", "SERVICE", "ID", "ADDRESS", "HEALTH")
	}
	for {
		event, err := next()
		if errors.Is(err, io.EOF) {
			return &exitError{code: exitUnreachable, err: errors.New("the synchronizer ended the watch"), hint: "run it again to go on with a fresh list"}
		}
		if err != nil {
			return err
		}
		if err := c.event(event); err != nil {
			return err
		}
	}
}

func (c *cli) event(e *adminv1.WatchInstancesResponse) error {
	if c.output == formatTable {
		return c.eventLine(e)
	}
	b, err := protojson.Marshal(e)
	if err != nil {
		return err
	}
	if c.output == formatYAML {
		if _, err := io.WriteString(c.stdout, "---\n"); err != nil {
			return err
		}
		return writeYAML(c.stdout, b)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil { // takes away protojson's random spaces
		return err
	}
	line.WriteByte('\n')
	_, err = c.stdout.Write(line.Bytes())
	return err
}

// eventLine prints one event for people; what is no change of an instance is talk.
func (c *cli) eventLine(e *adminv1.WatchInstancesResponse) error {
	switch e.GetType() {
	case adminv1.WatchInstancesResponse_SYNCED:
		fmt.Fprintln(c.stderr, "note: the list is complete; changes follow")
		return nil
	case adminv1.WatchInstancesResponse_CLUSTER:
		if e.GetCluster().GetState() == catalogv1.ClusterState_SYNCED {
			fmt.Fprintf(c.stderr, "note: %s is SYNCED\n", clean(e.GetCluster().GetCluster()))
		}
		c.notes([]*adminv1.ClusterStatus{e.GetCluster()})
		return nil
	}
	i := e.GetInstance()
	_, err := fmt.Fprintf(c.stdout, watchLine, e.GetType(), clean(i.GetCluster()), clean(i.GetNamespace()+"/"+i.GetService()),
		clean(i.GetId()), clean(hostPort(i.GetAddress(), i.GetPort())), i.GetHealth())
	return err
}
