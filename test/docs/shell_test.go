//go:build unix

package docs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is a bash that takes a document's blocks one after the other, in a folder of its own.
type shell struct {
	dir   string
	env   []string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	steps int
}

// newShell starts a shell in dir. tools stands first in its PATH.
func newShell(dir, tools string) (*shell, error) {
	s := &shell{dir: dir, env: append(os.Environ(),
		"PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"),
		// Without it the compiler's results name the copy's folder, and none would be found in the
		// build cache the next time.
		"GOFLAGS="+os.Getenv("GOFLAGS")+" -trimpath",
		"MAKEFLAGS=")}
	s.cmd = s.command("-eu")
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	return s, s.cmd.Start()
}

func (s *shell) command(args ...string) *exec.Cmd {
	cmd := exec.Command("bash", append([]string{"--norc", "--noprofile"}, args...)...)
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// step writes a script and gives its path and that of the file that takes its output.
func (s *shell) step(script string) (path, output string, err error) {
	s.steps++
	path = filepath.Join(s.dir, fmt.Sprintf(".step-%d", s.steps))
	return path, path + ".out", os.WriteFile(path, []byte(script), 0o600)
}

// run types a block. Any of its commands failing ends the shell, as with set -e.
func (s *shell) run(script string) error {
	path, output, err := s.step(script)
	if err != nil {
		return err
	}
	if _, err := s.ask(fmt.Sprintf("source %s >%s 2>&1 </dev/null; echo done\n", path, output)); err != nil {
		return fmt.Errorf("%w\n%s", err, read(output))
	}
	return nil
}

// ask sends a line and gives the shell's answer, which is one line.
func (s *shell) ask(line string) (string, error) {
	if _, err := io.WriteString(s.in, line); err != nil {
		return "", fmt.Errorf("the shell has ended: %w", err)
	}
	answer := make(chan string, 1)
	go func() {
		line, _ := s.out.ReadString('\n') // empty at the end, which is all there is to say
		answer <- line
	}()
	timeout := time.NewTimer(5 * time.Minute)
	defer timeout.Stop()
	select {
	case line := <-answer:
		if line == "" {
			return "", errors.New("a command failed")
		}
		return strings.TrimSpace(line), nil
	case <-timeout.C:
		s.kill(syscall.SIGKILL)
		<-answer
		return "", errors.New("a command has not ended after 5 minutes")
	}
}

// session is one command of a console block and what it shall print.
type session struct{ command, want string }

// sessions takes a console block apart.
func sessions(text string) []session {
	var out []session
	for line := range strings.Lines(text) {
		if cmd, ok := strings.CutPrefix(line, "$ "); ok {
			out = append(out, session{command: cmd})
		} else if len(out) > 0 {
			out[len(out)-1].want += line
		}
	}
	return out
}

// converse types a command until it succeeds and prints what it shall, for 30 s.
func (s *shell) converse(c session) error {
	want := pattern(c.want)
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		path, output, err := s.step(c.command)
		if err != nil {
			return err
		}
		answer, err := s.ask(fmt.Sprintf("if source %s >%s 2>&1 </dev/null; then echo yes; else echo no; fi\n", path, output))
		if err != nil {
			return fmt.Errorf("%s%w", c.command, err)
		}
		if answer == "yes" && want.MatchString(read(output)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%swent well: %s; wanted:\n%sbut it printed:\n%s", c.command, answer, c.want, read(output))
		}
		<-tick.C
	}
}

var dots = regexp.MustCompile(`\\\.\\\.\\\.`)
var space = regexp.MustCompile(`\s+`)

// pattern makes an expected output a regular expression: ... is anything, and space is space
// however wide.
func pattern(want string) *regexp.Regexp {
	words := space.ReplaceAllString(regexp.QuoteMeta(strings.TrimSpace(want)), `\s+`)
	return regexp.MustCompile(`(?s)^\s*` + dots.ReplaceAllString(words, `.*`) + `\s*$`)
}

// until runs a block that stays up, in a shell of its own, presses ^C once it has printed words,
// and waits for its end.
func (s *shell) until(script, words string) error {
	path, output, err := s.step(script)
	if err != nil {
		return err
	}
	log, err := os.Create(output)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("-eu", path)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	timeout := time.NewTimer(5 * time.Minute)
	defer timeout.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for pressed := false; ; {
		select {
		case err := <-ended:
			if !pressed {
				return errors.Join(fmt.Errorf("ended before it printed %q:\n%s", words, read(output)), err)
			}
			return waitGone(cmd.Process.Pid)
		case <-timeout.C:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended just now
			return errors.Join(fmt.Errorf("has neither printed %q nor ended in time:\n%s", words, read(output)), <-ended)
		case <-tick.C:
			if !pressed && strings.Contains(read(output), words) {
				pressed = true
				timeout.Reset(20 * time.Second)
				if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
					return err
				}
			}
		}
	}
}

// close ends the shell and what it left running, and says if something did not end on SIGTERM.
func (s *shell) close() error {
	s.kill(syscall.SIGTERM)
	_ = s.cmd.Wait() // killed, which is how it ends
	return waitGone(s.cmd.Process.Pid)
}

// kill signals the shell's process group; that it is gone already is no error.
func (s *shell) kill(sig syscall.Signal) { _ = syscall.Kill(-s.cmd.Process.Pid, sig) }

// waitGone waits until a process group has no member, and kills it after 15 s.
func waitGone(group int) error {
	deadline := time.Now().Add(15 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(-group, syscall.SIGKILL) // it may have ended just now
			return errors.New("something it started did not end within 15 s of the signal")
		}
		<-tick.C
	}
	return nil
}

// outputs gives what every step printed, for the report of a failure.
func (s *shell) outputs() string {
	var b strings.Builder
	for i := 1; i <= s.steps; i++ {
		path := filepath.Join(s.dir, fmt.Sprintf(".step-%d", i))
		if out := read(path + ".out"); out != "" {
			fmt.Fprintf(&b, "--- %s\n%.4000s\n", strings.TrimSpace(read(path)), out)
		}
	}
	return b.String()
}

// read gives a file's text, or why there is none.
func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestShell(t *testing.T) {
	s, err := newShell(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.run("x=seven\n(for i in 1 2 3; do sleep 0.1; echo $i; done >count) &\nsleep 600 &\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.converse(session{"cat count; echo $x", "1\n2\n3\n...ven\n"}); err != nil {
		t.Error("a variable and a job of the block before:", err)
	}
	if err := s.until("echo up; sleep 600", "up"); err != nil {
		t.Error("a block that stays up:", err)
	}
	if err := s.until("echo down", "up"); err == nil {
		t.Error("a block that shall stay up and ends: no error")
	}
	if err := s.run("true\nfalse\ntrue\n"); err == nil {
		t.Error("a failing command in the middle of a block: no error")
	}
}

func TestPattern(t *testing.T) {
	for _, tc := range []struct {
		want, printed string
		match         bool
	}{
		{"NAME  STATE\neast  ...\n", "NAME   STATE\neast   SYNCED  2s\n", true},
		{"east ...", "west SYNCED", false},
		{"a.b", "axb", false},
		{"", "something", false},
		{"...", "something", true},
	} {
		if got := pattern(tc.want).MatchString(tc.printed); got != tc.match {
			t.Errorf("%q for %q: %v", tc.want, tc.printed, got)
		}
	}
}
