//go:build real && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

// open counts the files that a process has open.
func open(d *testkit.Daemon) (int, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
	return len(files), err
}

// Somebody opens more connections to an agent than it may have files. Who comes then waits, or is turned
// away; a call that is under way goes on, the agent lives and loses nothing of what it knows; and it serves
// everybody once the connections are gone.
func TestRealTooManyConnections(t *testing.T) {
	const limit = 100
	dir := t.TempDir()
	program := filepath.Join(dir, "agent")
	if err := os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", limit, filepath.Join(bin, "agent")), 0o700); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, options{program: program}, "east", "west")
	east := w.clusters["east"]

	// A call whose body is on its way all the time.
	body, pieces := io.Pipe()
	answered := make(chan answer, 1)
	failed := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, "http://"+east.http+"/v1.0/invoke/cart/method/slow", body)
		if err != nil {
			failed <- err
			return
		}
		req.Header.Set("farcall-cluster", "west")
		req.Header.Set("farcall-timeout", "150s")
		resp, err := w.client.Do(req)
		if err != nil {
			failed <- err
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			failed <- err
			return
		}
		answered <- answer{status: resp.StatusCode, body: string(b)}
	}()
	say := func(piece string) {
		t.Helper()
		if _, err := io.WriteString(pieces, piece); err != nil {
			t.Fatal(err)
		}
	}
	say("one ")

	var flood []net.Conn
	closeAll := func() {
		for _, c := range flood {
			c.Close()
		}
		flood = nil
	}
	defer closeAll()
	// The agent closes those that say nothing for a while: they come again.
	more := func() {
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		for range limit {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", east.http)
			if err != nil {
				return // nobody takes it, which is what is wanted
			}
			flood = append(flood, c)
		}
	}
	full := func() error {
		n, err := open(east.agent)
		if err == nil && n < limit {
			more()
			err = fmt.Errorf("%d files are open", n)
		}
		if err == nil && !strings.Contains(east.agent.Log(), "too many open files") {
			err = errors.New("its log says nothing")
		}
		return err
	}
	testkit.Eventually(t, w.ctx, "the agent has all the files that it may have", full)
	say("two ")
	east.registry.put("cart-3", 1, "nowhere") // it may not be able to read this now
	began := time.Now()
	for time.Since(began) < 3*time.Second {
		testkit.Eventually(t, w.ctx, "and has them still", full)
	}
	say("three")
	closeAll()
	if err := pieces.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-failed:
		t.Errorf("the call that was under way: %v", err)
	case a := <-answered:
		if a.status != http.StatusOK || !strings.HasSuffix(a.body, "one two three") {
			t.Errorf("the call that was under way: %d %s", a.status, a.body)
		}
	}
	w.reaches("east", "west")
	w.reaches("east", "east")
	w.reaches("west", "east")
	east.registry.remove("cart-3")
	if err := syscall.Kill(east.agent.Pid(), 0); err != nil {
		t.Errorf("the agent has ended: %v", err)
	}
}
