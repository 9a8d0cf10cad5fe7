//go:build real && linux

package testkit

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestRealHostsOfANetworkHearEachOther(t *testing.T) {
	if !Inside(t) {
		return
	}
	n := NewNetwork(t)
	self := n.Attach()
	a, b := Avahi(t, n.Host("a")), Avahi(t, n.Host("b"))
	hears := func(who *AvahiServer, want string) {
		t.Helper()
		Eventually(t, Context(t), who.host.Name+" hears "+want, func() error {
			out, err := who.Run("avahi-browse", "-rpt", "_test._tcp")
			if err == nil && (want == "") != (out == "") || !strings.Contains(out, want) {
				err = fmt.Errorf("it hears %q (%w)", out, err)
			}
			return err
		})
	}
	a.Publish("x", "one", "_test._tcp", "", 8080, "k=v")
	hears(b, a.host.Addr.String()+`;8080;"k=v"`)
	a.PublishAddress("y", "far.local", "10.1.0.1")
	a.Publish("x", "two", "_test._tcp", "far.local", 8081)
	hears(b, "10.1.0.1;8081")
	a.Unpublish("x")
	hears(b, "")
	a.Publish("x", "three", "_test._tcp", "", 8080)
	hears(b, ";three;")
	a.Kill()
	a.Start()
	a.Publish("x", "four", "_test._tcp", "", 8080)
	hears(b, ";four;")

	// What runs on a host is reached from here, and the other way round.
	l, err := net.Listen("tcp", netip.AddrPortFrom(self.Addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := a.host.Command("bash", "-c", fmt.Sprintf("hostname; exec 3<>/dev/tcp/%s/%d && echo connected", self.Addr, l.Addr().(*net.TCPAddr).Port)).CombinedOutput()
	if err != nil || string(out) != "a\nconnected\n" {
		t.Errorf("from a host: %s %v", out, err)
	}
}

func TestRealANetworkEndsWithItsTest(t *testing.T) {
	var link string
	t.Run("inner", func(t *testing.T) {
		n := NewNetwork(t)
		n.Host("a")
		link = n.Attach().Link
		if _, err := net.InterfaceByName(link); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := net.InterfaceByName(link); err == nil {
		t.Errorf("%s is still there", link)
	}
}

func TestRealDaprdsCallEachOther(t *testing.T) {
	if !Inside(t) {
		return
	}
	n := NewNetwork(t)
	self := n.Attach()
	l, err := net.Listen("tcp", netip.AddrPortFrom(self.Addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "served ", r.URL.Path) })}
	go func() { _ = srv.Serve(l) }() // ends with Close
	t.Cleanup(func() { srv.Close() })
	caller := Daprd(t, n.Host("shop"), DaprdConfig{AppID: "shop"})
	Daprd(t, n.Host("cart"), DaprdConfig{AppID: "cart", App: l.Addr().(*net.TCPAddr).AddrPort()})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	Eventually(t, Context(t), "shop calls cart", func() error {
		resp, err := client.Get(caller.Invoke("cart", "hello"))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && string(body) != "served /hello" {
			err = fmt.Errorf("%d %s", resp.StatusCode, body)
		}
		return err
	})
}

// TestRealInsideTellsOfFailures runs this test again in a process of its own, where the test in
// the namespace is made to fail.
func TestRealInsideTellsOfFailures(t *testing.T) {
	const env = "FARCALL_TEST_FAIL_INSIDE"
	if os.Getenv(env) != "" {
		if Inside(t) {
			t.Error("on purpose")
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRealInsideTellsOfFailures$")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "on purpose") {
		t.Errorf("it passed, or does not say why it failed: %v\n%s", err, out)
	}
	if n := strings.Count(string(out), "--- FAIL"); n != 2 || strings.Count(string(out), "| --- FAIL") != 1 {
		t.Errorf("the verdict of the inner process is not marked as its:\n%s", out)
	}
}
