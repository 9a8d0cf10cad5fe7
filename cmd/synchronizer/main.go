// Synchronizer watches each cluster's registries, keeps every cluster's instance lists in etcd,
// and serves them to agents and to people. One deployment serves a federation.
//
// This is its command line only; goroutines and all else are package daemon's and below.
package main

import (
	"github.com/farcall/farcall/cmd/internal/daemon"
	"github.com/farcall/farcall/cmd/internal/entry"
	"github.com/farcall/farcall/internal/config"
)

func main() {
	entry.Daemon[*config.Synchronizer]{
		Name:  "synchronizer",
		Short: "Keep every cluster's instance lists, and serve them to agents and people",
		Read: func(path string) (*config.Synchronizer, error) {
			return config.ReadSynchronizer(path, daemon.CheckResolver)
		},
		Run: daemon.Synchronizer,
	}.Main()
}
