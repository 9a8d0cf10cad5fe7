//go:build unix

package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// process is one real server, run in a process group of its own. Its methods are for the test's
// goroutine only.
type process struct {
	t    testing.TB
	name string
	path string
	args []string
	dir  string // its log and its working directory; goes with the test

	cmd  *exec.Cmd
	done chan struct{} // closed once the running process has ended
	err  error         // how it ended; read it after done
}

// newProcess prepares a server of test/servers/bin. Its processes are killed at the test's end,
// and the tail of its log is shown if the test failed by then.
func newProcess(t testing.TB, binary, name string, args ...string) *process {
	t.Helper()
	return newProcessAt(t, serverBinary(t, binary), name, args...)
}

// newProcessAt is newProcess for a program at any path.
func newProcessAt(t testing.TB, path, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, path: path, args: args, dir: t.TempDir()}
	t.Cleanup(func() {
		if p.cmd != nil && p.ended() {
			t.Errorf("%s ended by itself: %v", p.name, p.err)
		}
		p.kill()
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", p.name, p.logTail())
		}
	})
	return p
}

// serverBinary gives the path of a server that `make servers` built.
func serverBinary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(t), "test", "servers", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make servers", err)
	}
	return path
}

// start starts the process and returns at once. It fails the test if it is running already.
func (p *process) start() {
	p.t.Helper()
	if p.cmd != nil {
		p.t.Fatalf("%s is running already", p.name)
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	// A server reads settings from its environment (ETCD_*, CONSUL_*): it gets none of ours.
	cmd.Env = []string{"HOME=" + p.dir, "TMPDIR=" + p.dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = childAttr()

	started := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		// Linux sends the parent-death signal when the thread that started the child ends, so this
		// thread is kept until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.cmd, p.done = cmd, done
}

// kill sends SIGKILL to the process group and waits until the process is gone. What is not
// running stays so.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	// An ended process has been reaped: its number may be somebody else's by now.
	if !p.ended() {
		p.signal(syscall.SIGKILL)
	}
	<-p.done
	p.cmd = nil
}

// signal sends to the whole process group; a group that is gone already is no error.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if p.cmd == nil {
		p.t.Fatalf("%s is not running", p.name)
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("%v to %s: %v", sig, p.name, err)
	}
}

// pause stops the process and returns when all its threads stand still: on a busy machine they
// work on for a while after the signal. Where there is no /proc it does not wait.
func (p *process) pause() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	Eventually(p.t, Context(p.t), p.name+" stands still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil {
			return err
		}
		for _, t := range threads {
			b, err := os.ReadFile(t)
			if err != nil {
				return err
			}
			// The state follows the name, which is in brackets and may hold some itself.
			if at := bytes.LastIndexByte(b, ')'); at < 0 || !bytes.HasPrefix(b[at:], []byte(") T")) {
				return fmt.Errorf("%s: %.80s", t, b)
			}
		}
		return nil
	})
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) logPath() string { return filepath.Join(p.dir, p.name+".log") }

// logTail gives the last lines of the log, 8 KiB of them at most.
func (p *process) logTail() string {
	b, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	if len(b) > most {
		b = b[len(b)-most:]
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	return string(b)
}

// launch makes servers out of fresh ports and waits until they are ready. Another program may
// take a port between the choice and its use, so a server that ends before it is ready is tried
// again on other ports, three times in all.
func launch(t testing.TB, build func() []*process, ready func() error) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		procs := build()
		for _, p := range procs {
			p.start()
		}
		err := awaitReady(t, procs, ready)
		if err == nil {
			return
		}
		if attempt == 3 {
			t.Fatalf("%v", err)
		}
		t.Logf("once more on other ports: %v", err)
		for _, p := range procs {
			p.kill()
		}
	}
}

var errEnded = errors.New("ended before it was ready")

// awaitReady waits until ready returns nil. It gives an error as soon as one of the processes
// that were running has ended, and fails the test when a minute has passed.
func awaitReady(t testing.TB, procs []*process, ready func() error) error {
	t.Helper()
	var ended error
	Eventually(t, Context(t), "servers ready", func() error {
		for _, p := range procs {
			if p.cmd != nil && p.ended() {
				ended = fmt.Errorf("%s %w: %w\n%s", p.name, errEnded, p.err, p.logTail())
				return nil
			}
		}
		return ready()
	})
	return ended
}

// logHas gives the first of the words that the log contains, or "".
func (p *process) logHas(words ...string) string {
	b, err := os.ReadFile(p.logPath())
	if err != nil {
		return "" // it was never started
	}
	for _, w := range words {
		if bytes.Contains(b, []byte(w)) {
			return w
		}
	}
	return ""
}
