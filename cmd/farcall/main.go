// Farcall is the command line: it asks a synchronizer what it knows and calls applications
// through an agent.
//
// It keeps no state and decides nothing: every verb is one question to one daemon, with the
// answer on stdout as a table, JSON or YAML, and all talk on stderr. It runs no goroutines of its own.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends what runs in good order; a second one finds the default again, and
	// kills.
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and gives the process's exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stdin, stdout, stderr) //nolint:contextcheck // cobra hands ctx to the verb that runs
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return report(cmd, err, stderr)
}
