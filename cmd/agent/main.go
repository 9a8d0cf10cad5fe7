// Agent merges its cluster's own list with those of the other clusters, decides by strategy and
// balance which instance serves a call, and relays the call to the agent next to it. One runs on
// each node.
//
// This is its command line only; goroutines and all else are package daemon's and below.
package main

import (
	"context"
	"log/slog"

	"github.com/farcall/farcall/cmd/internal/daemon"
	"github.com/farcall/farcall/cmd/internal/entry"
	"github.com/farcall/farcall/internal/config"
)

func main() {
	entry.Daemon[*config.Agent]{
		Name:  "agent",
		Short: "Serve this node's applications: pick an instance in any cluster and relay the call to it",
		Read: func(path string) (*config.Agent, error) {
			return config.ReadAgent(path, daemon.CheckResolver)
		},
		Run: func(ctx context.Context, c *config.Agent, log *slog.Logger) error {
			return daemon.Agent(ctx, c, daemon.TokensFromEnvironment(), log)
		},
	}.Main()
}
