// Package entry is the command line that both daemons have: which file to read, how to log, when
// to stop, and what exit code says how it ended.
//
// It knows nothing of what a daemon does: that is the function it is given. It runs no
// goroutines of its own.
package entry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/farcall/farcall/internal/version"
)

// Exit codes of the daemons.
const (
	exitOK     = 0 // stopped by a signal, or asked and answered
	exitFailed = 1 // it could not start, or could not go on
	exitUsage  = 2 // the command line or the configuration is wrong
)

var (
	formats = []string{"text", "json"}
	levels  = []string{"debug", "info", "warn", "error"}
)

// Effective is a configuration that can be shown with its defaults.
type Effective interface{ Effective() []byte }

// Daemon is what one of the two commands is. All fields are required.
type Daemon[C Effective] struct {
	Name, Short string
	// Read reads and validates a configuration file.
	Read func(path string) (C, error)
	// Run does the daemon's work until ctx is done.
	Run func(ctx context.Context, cfg C, log *slog.Logger) error
}

// Main runs the process's own command line and ends the process. SIGINT and SIGTERM end Run's
// context; a second one kills.
func (d Daemon[C]) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(d.execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the flags.
type options struct {
	config, logFormat, logLevel string
	checkConfig                 bool
}

// execute runs one command line and gives the exit code. Logs and complaints go to stderr.
func (d Daemon[C]) execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	code := exitOK
	root := &cobra.Command{
		Use:   d.Name,
		Short: d.Short,
		Long: d.Short + ".\n\nThe first SIGINT or SIGTERM ends it in good order, the second at once. Exit codes: 0 it was stopped, " +
			"1 it failed, 2 the command line or the configuration is wrong.",
		Args:              cobra.NoArgs,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(*cobra.Command, []string) (err error) {
			code, err = d.start(ctx, o, stdout, stderr)
			return err
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	flags := root.Flags()
	flags.StringVar(&o.config, "config", "", "configuration file (required)")
	flags.BoolVar(&o.checkConfig, "check-config", false, "check the configuration, print it with all defaults, and end")
	flags.StringVar(&o.logFormat, "log-format", "text", "how to log: "+strings.Join(formats, ", "))
	flags.StringVar(&o.logLevel, "log-level", "info", "what to log: "+strings.Join(levels, ", "))
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "Print which " + d.Name + " this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(stdout, d.Name, version.Get())
			return err
		},
	})
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", d.Name, err)
		return exitUsage
	}
	return code
}

// start reads the configuration and does what was asked. An error is the command line's.
func (d Daemon[C]) start(ctx context.Context, o options, stdout, stderr io.Writer) (int, error) {
	log, err := newLog(stderr, o)
	if err != nil {
		return exitUsage, err
	}
	if o.config == "" {
		return exitUsage, fmt.Errorf("--config is missing: want a configuration file")
	}
	cfg, err := d.Read(o.config)
	if err != nil {
		// One mistake a line, each with its file: a prefix would only stand before the first.
		fmt.Fprintln(stderr, err)
		return exitUsage, nil
	}
	if o.checkConfig {
		if _, err := stdout.Write(cfg.Effective()); err != nil {
			fmt.Fprintf(stderr, "%s: print the configuration: %v\n", d.Name, err)
			return exitFailed, nil
		}
		return exitOK, nil
	}
	log.Info("begin", "daemon", d.Name, "version", version.Get().Version, "commit", version.Get().Commit, "config", o.config)
	if err := d.Run(ctx, cfg, log); err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		log.Error("failed", "error", err)
		return exitFailed, nil
	}
	log.Info("stopped")
	return exitOK, nil
}

func newLog(w io.Writer, o options) (*slog.Logger, error) {
	if !slices.Contains(formats, o.logFormat) {
		return nil, fmt.Errorf("--log-format %q: want one of %s", o.logFormat, strings.Join(formats, ", "))
	}
	var level slog.Level
	if !slices.Contains(levels, o.logLevel) || level.UnmarshalText([]byte(o.logLevel)) != nil {
		return nil, fmt.Errorf("--log-level %q: want one of %s", o.logLevel, strings.Join(levels, ", "))
	}
	options := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}
