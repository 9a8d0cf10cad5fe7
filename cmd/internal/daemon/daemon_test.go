package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "precious.txt")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var l listeners
	l.add("http.listen", "unix", file)
	if l.err == nil || !strings.Contains(l.err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", l.err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file was touched: %q %v", b, err)
	}
	path := filepath.Join(dir, "s")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l = listeners{}
	if l.add("http.listen", "unix", path); l.err == nil || !strings.Contains(l.err.Error(), "in use") {
		t.Errorf("a live socket: %v", l.err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	left.Close()
	l = listeners{}
	if l.add("http.listen", "unix", path); l.err != nil {
		t.Errorf("a socket that was left behind: %v", l.err)
	}
	l.closeAll()
}

func TestInternalPortIsKept(t *testing.T) {
	dir, err := datadir.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var ports []string
	for range 2 {
		var l listeners
		n, err := l.internal("127.0.0.1:0", dir)
		if err != nil || l.err != nil {
			t.Fatal(err, l.err)
		}
		ports = append(ports, n.Addr().String())
		l.closeAll()
	}
	if ports[0] != ports[1] {
		t.Errorf("drew %v, want the same port again", ports)
	}
	taken, err := net.Listen("tcp", ports[0])
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var l listeners
	if n, err := l.internal("127.0.0.1:0", dir); err != nil || l.err != nil || n.Addr().String() == ports[0] {
		t.Errorf("with its port taken: %v %v %v", n, err, l.err)
	}
	l.closeAll()
}

func TestAdvertised(t *testing.T) {
	for name, c := range map[string]struct {
		bound, advertise, want string
		synchronizers          []string
	}{
		"the listener's host":        {"127.0.0.1:5000", "", "127.0.0.1:5000", nil},
		"a host":                     {"127.0.0.1:5000", "10.0.0.7", "10.0.0.7:5000", nil},
		"an IPv6 host":               {"127.0.0.1:5000", "[2001:db8::7]", "[2001:db8::7]:5000", nil},
		"host and port":              {"127.0.0.1:5000", "edge.example:7", "edge.example:7", nil},
		"towards the synchronizer":   {"0.0.0.0:5000", "", "127.0.0.1:5000", []string{"127.0.0.1:7700"}},
		"from every address, IPv6":   {"[::]:5000", "", "127.0.0.1:5000", []string{"127.0.0.1:7700"}},
		"the second can be found":    {"0.0.0.0:5000", "", "127.0.0.1:5000", []string{"nowhere.invalid:1", "127.0.0.1:7700"}},
		"nobody found, as last time": {"0.0.0.0:5000", "", "10.0.0.9:5000", []string{"nowhere.invalid:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := datadir.Open(t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if strings.Contains(name, "last time") {
				if err := datadir.WriteFile(dir.File(hostFile), []byte("10.0.0.9\n")); err != nil {
					t.Fatal(err)
				}
			}
			bound, err := net.ResolveTCPAddr("tcp", c.bound)
			if err != nil {
				t.Fatal(err)
			}
			got, err := advertised(&config.Agent{Internal: config.Internal{Advertise: c.advertise}, Synchronizers: c.synchronizers}, bound, dir)
			if err != nil || got != c.want {
				t.Errorf("got %s (%v), want %s", got, err, c.want)
			}
		})
	}
}

// An agent without resolvers starts, takes its own cluster's list from the feed, and ends when
// it is told to.
func TestAgentWithoutResolvers(t *testing.T) {
	health := fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
	file := filepath.Join(t.TempDir(), "agent.yaml")
	text := "cluster: east\nnode: n1\nsynchronizers: [127.0.0.1:1]\nhttp: {listen: 127.0.0.1:0}\ngrpc: {listen: 127.0.0.1:0}\nmetrics: {listen: " + health + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.ReadAgent(file)
	if err != nil {
		t.Fatal(err)
	}
	stop := testkit.Go(t, "agent", func(ctx context.Context) error { return Agent(ctx, c, Tokens{}, testkit.Log(t)) })
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "ready", func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+health+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(b), "no feed")) {
			err = fmt.Errorf("%s %s", resp.Status, b)
		}
		return err
	})
	stop()
}
