//go:build real && unix

package testkit

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRealConsulLosesItsDataWhenKilledAndComesBackAtTheSameAddress(t *testing.T) {
	s := Consul(t)
	put(t, "http://"+s.Addr+"/v1/kv/x", "1", "")
	if _, err := get("http://"+s.Addr+"/v1/kv/x", ""); err != nil {
		t.Fatalf("what was written is not there: %v", err)
	}
	s.Kill()
	if c, err := net.Dial("tcp", s.Addr); err == nil {
		c.Close()
		t.Fatal("a killed Consul takes connections")
	}
	s.Start()
	if _, err := get("http://"+s.Addr+"/v1/kv/x", ""); err == nil {
		t.Fatal("a Consul in development mode kept its data")
	}
}

func TestRealConsulAnswersNothingWhilePaused(t *testing.T) {
	s := Consul(t)
	s.Pause()
	if _, err := get("http://"+s.Addr+"/v1/status/leader", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a paused Consul: %v, want no answer until the deadline", err)
	}
	s.Resume()
	Eventually(t, Context(t), "answer after resume", func() error {
		_, err := get("http://"+s.Addr+"/v1/status/leader", "")
		return err
	})
}

func TestRealConsulWithACLsDeniesWithoutTheToken(t *testing.T) {
	const token = "11111111-2222-3333-4444-555555555555"
	s := Consul(t, ConsulACL(token), ConsulHCL(`datacenter = "east"`))
	if _, err := get("http://"+s.Addr+"/v1/agent/self", ""); err == nil {
		t.Error("agent/self without a token: no error")
	}
	body, err := get("http://"+s.Addr+"/v1/agent/self", token)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(body, `"Datacenter": "east"`) {
		t.Errorf("the extra HCL was not read: %.300s", body)
	}
}

func TestRealEtcdKeepsItsDataWhenEveryMemberIsKilled(t *testing.T) {
	c := Etcd(t, 3)
	post := func(m *EtcdMember, path, body string) (string, error) {
		return do(http.MethodPost, m.Endpoint+path, body, "")
	}
	// etcd's JSON gateway takes keys and values in base64: eA== is x, MQ== is 1.
	if _, err := post(c.Members[0], "/v3/kv/put", `{"key":"eA==","value":"MQ=="}`); err != nil {
		t.Fatal(err)
	}

	c.Members[0].Kill()
	Eventually(t, Context(t), "two of three elect a leader and take a write", func() error {
		_, err := post(c.Members[1], "/v3/kv/put", `{"key":"eQ==","value":"MQ=="}`)
		return err
	})
	c.Members[1].Kill()
	if _, err := post(c.Members[2], "/v3/kv/put", `{"key":"eg==","value":"MQ=="}`); err == nil {
		t.Fatal("one of three took a write")
	}
	c.Members[2].Kill()

	for _, m := range c.Members {
		m.Start()
	}
	c.WaitReady()
	body, err := post(c.Members[0], "/v3/kv/range", `{"key":"eA=="}`)
	if err != nil || !strings.Contains(body, `"value":"MQ=="`) {
		t.Fatalf("after a restart: %q, %v, want what was written before", body, err)
	}
}

func TestRealServersEndWithTheirTest(t *testing.T) {
	var pid int
	var dir, endpoint string
	t.Run("inner", func(t *testing.T) {
		c := Etcd(t, 1)
		c.Members[0].Pause() // the harder case: a stopped process takes no other signal than SIGKILL
		pid, dir, endpoint = c.Members[0].proc.cmd.Process.Pid, c.Members[0].DataDir, c.Endpoints[0]
	})
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v, want it gone", pid, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("data dir: %v, want it gone", err)
	}
	if _, err := get(endpoint+"/health", ""); err == nil {
		t.Error("it still answers")
	}
}

func put(t *testing.T, url, body, token string) {
	t.Helper()
	if _, err := do(http.MethodPut, url, body, token); err != nil {
		t.Fatal(err)
	}
}

func get(url, token string) (string, error) { return do(http.MethodGet, url, "", token) }

func do(method, url, body, token string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Consul-Token", token)
	return readOK(req)
}
