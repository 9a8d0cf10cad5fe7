//go:build unix

package testkit

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Daemon is one of our own programs, run as a process of its own. Its methods are for the test's
// goroutine only.
type Daemon struct{ p *process }

// complaints are the words of Go's runtime that no program of ours may ever log.
var complaints = []string{"WARNING: DATA RACE", "panic: ", "fatal error: "}

// Build builds commands (folders under root, with ./ before them) with the race detector into dir.
func Build(root, dir string, folders ...string) error {
	for _, name := range folders {
		cmd := exec.Command("go", "build", "-race", "-o", filepath.Join(dir, filepath.Base(name)), name)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// NewDaemon prepares a program to be started. It is killed at the test's end, where the tail of
// its log is shown if the test failed, and the test fails if it found a data race or panicked.
func NewDaemon(t testing.TB, path, name string, args ...string) *Daemon {
	t.Helper()
	p := &process{t: t, name: name, path: path, args: args, dir: t.TempDir()}
	t.Cleanup(func() {
		p.kill()
		if bad := p.logHas(complaints...); bad != "" {
			t.Errorf("%s's log says %q", name, bad)
		}
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, p.logTail())
		}
	})
	return &Daemon{p}
}

// Start starts the program and returns at once.
func (d *Daemon) Start() { d.p.t.Helper(); d.p.start() }

// Kill ends it as a crash does and waits for it; nothing happens where it does not run.
func (d *Daemon) Kill() { d.p.kill() }

// Pid gives the number of its process, which must have been started.
func (d *Daemon) Pid() int { return d.p.cmd.Process.Pid }

// Term asks it to end and returns at once; Wait tells how it did.
func (d *Daemon) Term() { d.p.t.Helper(); d.p.signal(syscall.SIGTERM) }

// Pause stops the whole process as it is; Resume lets it go on.
func (d *Daemon) Pause() { d.p.t.Helper(); d.p.pause() }

// Resume lets a paused process go on.
func (d *Daemon) Resume() { d.p.t.Helper(); d.p.signal(syscall.SIGCONT) }

// Wait waits until it has ended and returns how: nil for exit code 0.
func (d *Daemon) Wait() error {
	d.p.t.Helper()
	select {
	case <-d.p.done:
		d.p.cmd = nil
		return d.p.err
	case <-Context(d.p.t).Done():
		d.p.t.Fatalf("%s did not end", d.p.name)
		return nil
	}
}

// Ended reports whether it has ended by itself, and how: nil for exit code 0.
func (d *Daemon) Ended() (bool, error) {
	if d.p.cmd == nil || !d.p.ended() {
		return false, nil
	}
	return true, d.p.err
}

// Complaint gives the sign of a data race or a panic that is in its log, "" where there is none.
func (d *Daemon) Complaint() string { return d.p.logHas(complaints...) }

// LogFile is where its log is until the test ends.
func (d *Daemon) LogFile() string { return d.p.logPath() }

// Log returns what it has written last.
func (d *Daemon) Log() string { return d.p.logTail() }
