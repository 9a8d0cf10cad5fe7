package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"
)

// child is one process of the demo. It can be killed and started again.
type child struct {
	name string
	log  string // path
	args []string

	cmd   *exec.Cmd
	stdin io.Closer
}

func newChild(name, log string, args ...string) *child {
	return &child{name: name, log: log, args: args}
}

func (c *child) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	c.cmd = exec.Command(self, c.args...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	return nil
}

// kill ends the process as a crash would, and waits for it.
func (c *child) kill() {
	if c.cmd == nil || c.cmd.Process == nil {
		return
	}
	// It may have ended by itself; that it was killed is what Wait tells, and what was wanted.
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	_ = c.stdin.Close()
	c.cmd = nil
}

// echo is one instance of cart: an HTTP server that says who it is.
type echo struct {
	id     string
	server *http.Server
	l      net.Listener
	done   chan error
}

func newEcho(id, cluster string) (*echo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &echo{id: id, l: l, done: make(chan error, 1)}
	e.server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s from %s in %s\n", r.Method, r.URL.Path, id, cluster)
		}),
	}
	go func() { e.done <- e.server.Serve(l) }()
	return e, nil
}

func (e *echo) port() int { return e.l.Addr().(*net.TCPAddr).Port }

func (e *echo) close() {
	_ = e.server.Close() // its connections are the demo's own
	if err := <-e.done; !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "echo:", err)
	}
}
