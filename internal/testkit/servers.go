//go:build unix

package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ConsulServer is a real Consul in development mode: one server that keeps everything in
// memory. Its methods are for the test's goroutine only.
type ConsulServer struct {
	// Addr is host:port of its HTTP API.
	Addr string

	t     testing.TB
	proc  *process
	token string
}

// A ConsulOption changes how Consul is started.
type ConsulOption func(*consulOptions)

type consulOptions struct {
	hcl   []string
	token string
}

// ConsulHCL adds to Consul's configuration, in HCL. What the server needs to know of its ports
// it is told on the command line, which wins.
func ConsulHCL(hcl string) ConsulOption {
	return func(o *consulOptions) { o.hcl = append(o.hcl, hcl) }
}

// ConsulACL turns Consul's ACLs on, with everything denied that no token allows. token, a UUID,
// may do everything.
func ConsulACL(token string) ConsulOption {
	return func(o *consulOptions) {
		o.token = token
		o.hcl = append(o.hcl, fmt.Sprintf(
			"acl {\n enabled = true\n default_policy = \"deny\"\n tokens {\n  initial_management = %q\n  agent = %[1]q\n }\n}\n", token))
	}
}

// Consul starts a Consul that lives as long as the test, and returns when its catalogue lists
// itself.
func Consul(t testing.TB, opts ...ConsulOption) *ConsulServer {
	t.Helper()
	var o consulOptions
	for _, opt := range opts {
		opt(&o)
	}
	s := &ConsulServer{t: t, token: o.token}
	launch(t, func() []*process {
		port := FreePort(t)
		s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
		s.proc = newProcess(t, "consul", "consul-"+strconv.Itoa(port), "agent", "-dev",
			"-node", "consul-"+strconv.Itoa(port), "-bind", "127.0.0.1", "-client", "127.0.0.1",
			"-http-port", strconv.Itoa(port),
			"-server-port", strconv.Itoa(FreePort(t)),
			"-serf-lan-port", strconv.Itoa(FreePort(t)),
			"-serf-wan-port", "-1", "-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1",
			"-log-level", "info")
		for i, hcl := range o.hcl {
			path := filepath.Join(s.proc.dir, fmt.Sprintf("extra-%d.hcl", i))
			if err := os.WriteFile(path, []byte(hcl), 0o600); err != nil {
				t.Fatal(err)
			}
			s.proc.args = append(s.proc.args, "-config-file", path)
		}
		return []*process{s.proc}
	}, s.ready)
	return s
}

// ready asks whether the server has registered itself, which is the last thing it does.
func (s *ConsulServer) ready() error {
	var nodes []struct{ Node string }
	if err := getJSON("http://"+s.Addr+"/v1/catalog/service/consul", s.token, &nodes); err != nil {
		return err
	}
	if len(nodes) == 0 {
		return errors.New("its catalogue does not list itself yet")
	}
	return nil
}

// Kill ends the server at once. What it knew is lost, as its memory is all it has.
func (s *ConsulServer) Kill() { s.proc.kill() }

// Start starts a killed server again on the same ports, empty, and waits until it is ready.
func (s *ConsulServer) Start() {
	s.t.Helper()
	s.proc.start()
	if err := awaitReady(s.t, []*process{s.proc}, s.ready); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the server's work (SIGSTOP): it accepts connections and answers nothing.
func (s *ConsulServer) Pause() { s.proc.pause() }

// Resume ends a Pause.
func (s *ConsulServer) Resume() { s.proc.signal(syscall.SIGCONT) }

// EtcdCluster is a real etcd cluster, each member a process.
type EtcdCluster struct {
	// Endpoints are the members' client URLs, in Members' order.
	Endpoints []string
	Members   []*EtcdMember

	t testing.TB
}

// EtcdMember is one process of an EtcdCluster. Its methods are for the test's goroutine only.
type EtcdMember struct {
	// Endpoint is its client URL.
	Endpoint string
	// DataDir survives Kill and goes with the test.
	DataDir string

	proc *process
}

// Etcd starts an etcd cluster of n members that lives as long as the test, and returns when
// every member answers.
func Etcd(t testing.TB, n int) *EtcdCluster {
	t.Helper()
	c := &EtcdCluster{t: t}
	launch(t, func() []*process { return c.build(n) }, c.ready)
	return c
}

func (c *EtcdCluster) build(n int) []*process {
	c.t.Helper()
	c.Members, c.Endpoints = nil, nil
	peers := make([]string, n)
	initial := make([]string, n)
	for i := range n {
		peers[i] = fmt.Sprintf("http://127.0.0.1:%d", FreePort(c.t))
		initial[i] = fmt.Sprintf("etcd-%d=%s", i, peers[i])
	}
	procs := make([]*process, n)
	for i := range n {
		name := fmt.Sprintf("etcd-%d", i)
		m := &EtcdMember{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", FreePort(c.t))}
		m.proc = newProcess(c.t, "etcd", name)
		m.DataDir = filepath.Join(m.proc.dir, "data")
		m.proc.args = []string{
			"--name", name, "--data-dir", m.DataDir,
			"--listen-client-urls", m.Endpoint, "--advertise-client-urls", m.Endpoint,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			// What SIGKILL leaves is in the kernel's hands already; only a machine's crash would tell
			// the difference, and no test makes one.
			"--unsafe-no-fsync",
			"--log-level", "warn",
		}
		c.Members, c.Endpoints = append(c.Members, m), append(c.Endpoints, m.Endpoint)
		procs[i] = m.proc
	}
	return procs
}

func (c *EtcdCluster) ready() error {
	for _, m := range c.Members {
		if m.proc.cmd == nil {
			continue
		}
		var health struct{ Health string }
		if err := getJSON(m.Endpoint+"/health", "", &health); err != nil {
			return err
		}
		if health.Health != "true" {
			return fmt.Errorf("%s: health is %q", m.proc.name, health.Health)
		}
	}
	return nil
}

// WaitReady waits until every member that was not killed answers, which takes a majority.
func (c *EtcdCluster) WaitReady() {
	c.t.Helper()
	procs := make([]*process, len(c.Members))
	for i, m := range c.Members {
		procs[i] = m.proc
	}
	if err := awaitReady(c.t, procs, c.ready); err != nil {
		c.t.Fatal(err)
	}
}

// Kill ends the member at once and leaves its DataDir.
func (m *EtcdMember) Kill() { m.proc.kill() }

// Start starts a killed member again on the same ports and DataDir, and returns at once: whether
// it can answer depends on the others (see EtcdCluster.WaitReady).
func (m *EtcdMember) Start() { m.proc.start() }

// Pause stops the member's work (SIGSTOP): it accepts connections and answers nothing.
func (m *EtcdMember) Pause() { m.proc.pause() }

// Pid gives the number of its process, which must be running.
func (m *EtcdMember) Pid() int { return m.proc.cmd.Process.Pid }

// Running reports whether it was started and not killed since.
func (m *EtcdMember) Running() bool { return m.proc.cmd != nil }

// Resume ends a Pause.
func (m *EtcdMember) Resume() { m.proc.signal(syscall.SIGCONT) }

// getJSON asks once, for two seconds at most, over a connection of its own.
func getJSON(url, consulToken string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if consulToken != "" {
		req.Header.Set("X-Consul-Token", consulToken)
	}
	body, err := readOK(req)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), into)
}

// readOK sends a request over a connection of its own and gives the body of a 200.
func readOK(req *http.Request) (string, error) {
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", req.URL, resp.Status, body)
	}
	return string(body), nil
}

// Put writes a key as it is, past everything that guards what our own programs write.
func (c *EtcdCluster) Put(key, value string) {
	c.t.Helper()
	c.ask("put", map[string][]byte{"key": []byte(key), "value": []byte(value)}, nil)
}

// Delete deletes a key in the same way.
func (c *EtcdCluster) Delete(key string) {
	c.t.Helper()
	c.ask("deleterange", map[string][]byte{"key": []byte(key)}, nil)
}

// Get gives a key's value, "" where there is none.
func (c *EtcdCluster) Get(key string) string {
	c.t.Helper()
	var out struct{ Kvs []struct{ Value []byte } }
	c.ask("range", map[string][]byte{"key": []byte(key)}, &out)
	if len(out.Kvs) == 0 {
		return ""
	}
	return string(out.Kvs[0].Value)
}

// ask uses etcd's own JSON gateway: bytes are base64, as encoding/json writes them.
func (c *EtcdCluster) ask(verb string, in map[string][]byte, out any) {
	c.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(Context(c.t), http.MethodPost, c.Endpoints[0]+"/v3/kv/"+verb, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := readOK(req)
	if err == nil && out != nil {
		err = json.Unmarshal([]byte(text), out)
	}
	if err != nil {
		c.t.Fatalf("etcd %s: %v", verb, err)
	}
}
