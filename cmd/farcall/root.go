package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farcall/farcall/internal/identity"
)

// cli is what the verbs share: where to read and write, and the global flags.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	server string // host:port of a synchronizer
	agent  string // host:port or unix:///path of an agent's HTTP listener
	output string // table, json or yaml

	tls identity.Config // who asks the synchronizer; its files are all set, or none
}

const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

var formats = []string{formatTable, formatJSON, formatYAML}

// newRoot builds the whole command line, with nothing global in it: every call gives a fresh
// one. Execute's error is for report, which makes an exit code of it.
func newRoot(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "farcall",
		Short: "One name, many clusters: ask what is known, and call it",
		Long: "Farcall asks a synchronizer what it knows of all clusters, and calls applications through an agent.\n\n" +
			"Data goes to stdout, talk to stderr.\n\n" + exitCodeHelp(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.checkFlags() },
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&c.server, "server", "127.0.0.1:7700", "host:port of a synchronizer")
	flags.StringVar(&c.agent, "agent", "127.0.0.1:3500", "host:port or unix:///path of an agent")
	flags.StringVarP(&c.output, "output", "o", formatTable, "what to print: "+strings.Join(formats, ", "))
	flags.StringVar(&c.tls.Cert, "tls-cert", "", "certificate of who asks a synchronizer that has tls, or $FARCALL_TLS_CERT")
	flags.StringVar(&c.tls.Key, "tls-key", "", "key of that certificate, or $FARCALL_TLS_KEY")
	flags.StringVar(&c.tls.CA, "tls-ca", "", "authorities that a synchronizer is believed by, or $FARCALL_TLS_CA")
	root.AddCommand(
		newDemo(),
		c.getCommand(),
		c.watchCommand(),
		c.explainCommand(),
		c.policyCommand(),
		c.cordonCommand(),
		c.uncordonCommand(),
		c.holdsCommand(),
		c.checkCommand(),
		c.callCommand(),
		c.certsCommand(),
		c.versionCommand(),
	)
	coded(root)
	return root
}

// checkFlags refuses global flags that no verb could use.
func (c *cli) checkFlags() error {
	if !slices.Contains(formats, c.output) {
		return usagef("--output %q: want one of %s", c.output, strings.Join(formats, ", "))
	}
	if err := checkAddress(c.server); err != nil {
		return usagef("--server %v", err)
	}
	if err := c.checkTLS(); err != nil {
		return err
	}
	if path, unix := strings.CutPrefix(c.agent, "unix://"); unix {
		if !strings.HasPrefix(path, "/") {
			return usagef("--agent %q: want host:port or unix:///path", c.agent)
		}
		return nil
	}
	if err := checkAddress(c.agent); err != nil {
		return usagef("--agent %v", err)
	}
	return nil
}

func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
		return fmt.Errorf("%q: want host:port, for example 127.0.0.1:7700", s)
	}
	return nil
}

// group makes a verb of a command that only holds others: without one of them it is a usage error.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	var names []string
	for _, v := range verbs {
		names = append(names, v.Name())
	}
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			want := strings.Join(names, ", ")
			if len(args) == 0 {
				return usagef("%s what? Want one of %s", cmd.Name(), want)
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usagef("%s has no %q; did you mean %q?", cmd.Name(), args[0], near[0])
			}
			return usagef("%s has no %q: want one of %s", cmd.Name(), args[0], want)
		},
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(verbs...)
	return cmd
}

// coded gives every verb below cmd the exit code "failed" for errors that name none of their
// own, so that what is left without one is cobra's own complaint about the command line.
func coded(cmd *cobra.Command) {
	if verb := cmd.RunE; verb != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			return withCode(verb(cmd, args), exitFailed)
		}
	}
	for _, c := range cmd.Commands() {
		coded(c)
	}
}
