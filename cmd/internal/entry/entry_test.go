package entry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// file writes a configuration file.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "farcall.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandLine(t *testing.T) {
	good, bad := file(t, "federation: demo\n"), file(t, "federaton: demo\nlisten: x\n")
	for _, c := range []struct {
		name   string
		args   string
		run    error
		code   int
		ran    bool
		stdout string   // begins with
		stderr []string // holds each
	}{
		{name: "runs", args: "--config " + good, ran: true, stderr: []string{"level=INFO msg=begin daemon=synchronizer ", "level=INFO msg=stopped"}},
		{name: "runs and fails", args: "--config " + good, run: errors.New("address in use"), ran: true, code: exitFailed,
			stderr: []string{`level=ERROR msg=failed error="address in use"`}},
		{name: "a cancelled call is a failure while nobody asked to stop", args: "--config " + good, run: context.Canceled, ran: true, code: exitFailed,
			stderr: []string{"context canceled"}},
		{name: "checks", args: "--config " + good + " --check-config", stdout: "federation: demo\nlisten: 127.0.0.1:7700\n"},
		{name: "checks a wrong one", args: "--config " + bad + " --check-config", code: exitUsage, stderr: []string{
			bad + `:1: federaton: unknown key; did you mean "federation"?` + "\n", bad + `:2: listen: "x" is not host:port; did you mean "x:7700"?`}},
		{name: "a wrong one does not run", args: "--config " + bad, code: exitUsage, stderr: []string{bad + ":1: "}},
		{name: "a file that is not there", args: "--config /does/not/exist", code: exitUsage, stderr: []string{"config: open /does/not/exist: "}},
		{name: "no file", args: "", code: exitUsage, stderr: []string{"synchronizer: --config is missing: want a configuration file"}},
		{name: "version", args: "version", stdout: "synchronizer "},
		{name: "help", args: "--help", stdout: "Test daemon.\n"},
		{name: "unknown flag", args: "--colour", code: exitUsage, stderr: []string{"synchronizer: unknown flag: --colour"}},
		{name: "unknown verb", args: "start", code: exitUsage, stderr: []string{`unknown command "start"`}},
		{name: "log format", args: "--log-format xml --config " + good, code: exitUsage, stderr: []string{`--log-format "xml": want one of text, json`}},
		{name: "log level", args: "--log-level INFO --config " + good, code: exitUsage, stderr: []string{`--log-level "INFO": want one of debug, info, warn, error`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ran := false
			d := Daemon[*config.Synchronizer]{
				Name: "synchronizer", Short: "Test daemon", Read: func(path string) (*config.Synchronizer, error) { return config.ReadSynchronizer(path) },
				Run: func(_ context.Context, cfg *config.Synchronizer, _ *slog.Logger) error {
					ran = cfg.Federation == "demo"
					return c.run
				},
			}
			var stdout, stderr bytes.Buffer
			if code := d.execute(testkit.Context(t), strings.Fields(c.args), &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if ran != c.ran {
				t.Errorf("ran: %v, want %v", ran, c.ran)
			}
			if !strings.HasPrefix(stdout.String(), c.stdout) || c.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout %q, want %q", stdout.String(), c.stdout)
			}
			for _, want := range c.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr.String())
				}
			}
		})
	}
}

func TestASignalIsAGoodEnd(t *testing.T) {
	ctx, stop := context.WithCancel(testkit.Context(t))
	d := Daemon[*config.Agent]{
		Name: "agent", Short: "Test daemon", Read: func(path string) (*config.Agent, error) { return config.ReadAgent(path) },
		Run: func(ctx context.Context, _ *config.Agent, _ *slog.Logger) error {
			stop() // as a signal does
			<-ctx.Done()
			return fmt.Errorf("serve: %w", ctx.Err())
		},
	}
	var stdout, stderr bytes.Buffer
	args := []string{"--config", file(t, "cluster: east\nsynchronizers: [127.0.0.1:7700]\n")}
	if code := d.execute(ctx, args, &stdout, &stderr); code != exitOK || strings.Contains(stderr.String(), "ERROR") {
		t.Errorf("exit code %d, stderr\n%s", code, stderr.String())
	}
}

func TestLogFlags(t *testing.T) {
	d := Daemon[*config.Synchronizer]{
		Name: "synchronizer", Short: "Test daemon", Read: func(path string) (*config.Synchronizer, error) { return config.ReadSynchronizer(path) },
		Run: func(_ context.Context, _ *config.Synchronizer, log *slog.Logger) error {
			log.Debug("fine")
			log.Warn("coarse")
			return nil
		},
	}
	path := file(t, "federation: demo\n")
	for level, want := range map[string]string{"debug": "begin fine coarse stopped", "info": "begin coarse stopped", "warn": "coarse", "error": ""} {
		var stdout, stderr bytes.Buffer
		if code := d.execute(testkit.Context(t), []string{"--config", path, "--log-format", "json", "--log-level", level}, &stdout, &stderr); code != exitOK {
			t.Errorf("%s: exit code %d, stderr\n%s", level, code, stderr.String())
		}
		var said []string
		for line := range strings.Lines(stderr.String()) {
			var entry struct{ Msg string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Errorf("%s: %v in %s", level, err, line)
			}
			said = append(said, entry.Msg)
		}
		if got := strings.Join(said, " "); got != want {
			t.Errorf("%s: logged %q, want %q", level, got, want)
		}
	}
}
