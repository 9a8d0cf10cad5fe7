//go:build linux

package testkit

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// DaprdServer is a real daprd in standalone mode, on a host of a Network or on loopback. Its methods are for the test's goroutine only.
type DaprdServer struct {
	// HTTP, GRPC and Internal are where it serves its HTTP API, its gRPC API, and other sidecars.
	HTTP, GRPC, Internal netip.AddrPort

	t    testing.TB
	proc *process
}

// DaprdConfig says what a daprd stands beside.
type DaprdConfig struct {
	AppID string
	// App is where the application listens; not valid: there is none.
	App netip.AddrPort
	// Resolver is the block nameResolution of its configuration; empty: mDNS.
	Resolver string
	// Tracing is the block tracing of its configuration; empty: it traces nothing.
	Tracing string
	// Args are further flags.
	Args []string
}

// Daprd starts a daprd on the host and returns when it says that it runs. There may be one on
// each host. Without a host (nil) it runs on loopback, where it has ports of its own.
func Daprd(t testing.TB, h *Host, cfg DaprdConfig) *DaprdServer {
	t.Helper()
	addr, listen := netip.AddrFrom4([4]byte{127, 0, 0, 1}), "127.0.0.1"
	at := func(int) netip.AddrPort { return netip.AddrPortFrom(addr, uint16(FreePort(t))) }
	if h == nil {
		h = &Host{}
		cfg.Args = append([]string{"--dapr-internal-grpc-listen-address", listen}, cfg.Args...)
	} else {
		addr, listen = h.Addr, "0.0.0.0"
		at = func(port int) netip.AddrPort { return netip.AddrPortFrom(addr, uint16(port)) }
	}
	cfg.Resolver = cmp.Or(cfg.Resolver, "{component: mdns, version: v1}")
	cfg.Tracing = cmp.Or(cfg.Tracing, `{samplingRate: "0"}`)
	d := &DaprdServer{t: t, HTTP: at(3500), GRPC: at(50001), Internal: at(50002)}
	// Without a configuration it would look for one in the home directory.
	conf := filepath.Join(t.TempDir(), "dapr.yaml")
	writeFile(t, conf, `apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: test}
spec:
  nameResolution: `+cfg.Resolver+`
  tracing: `+cfg.Tracing+`
`)
	args := []string{
		"DAPR_HOST_IP=" + addr.String(), // it would ask for the route to the internet
		serverBinary(t, "daprd"), "--mode", "standalone", "--app-id", cfg.AppID, "--config", conf,
		"--resources-path", t.TempDir(), "--dapr-listen-addresses", listen,
		"--dapr-http-port", strconv.Itoa(int(d.HTTP.Port())),
		"--dapr-grpc-port", strconv.Itoa(int(d.GRPC.Port())),
		"--dapr-internal-grpc-port", strconv.Itoa(int(d.Internal.Port())),
		"--enable-metrics=false", "--dapr-graceful-shutdown-seconds", "1",
	}
	if cfg.App.IsValid() {
		args = append(args, "--app-port", strconv.Itoa(int(cfg.App.Port())), "--app-channel-address", cfg.App.Addr().String())
	}
	path, args := h.wrap("env", append(args, cfg.Args...))
	d.proc = newProcessAt(t, lookPath(t, path), "daprd-"+cfg.AppID, args...)
	d.Start()
	return d
}

// Start starts it, or a killed one again, and waits until it says that it runs.
func (d *DaprdServer) Start() {
	d.t.Helper()
	d.proc.start()
	if err := awaitReady(d.t, []*process{d.proc}, func() error {
		if d.proc.logHas("dapr initialized. Status: Running") == "" {
			return errors.New("it does not say that it runs yet")
		}
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
}

// Kill ends it as a crash does: nobody hears a goodbye.
func (d *DaprdServer) Kill() { d.proc.kill() }

// Stop asks it to end, so that it says goodbye, and waits until it has ended.
func (d *DaprdServer) Stop() {
	d.t.Helper()
	d.proc.signal(syscall.SIGTERM)
	select {
	case <-d.proc.done:
		d.proc.cmd = nil
	case <-Context(d.t).Done():
		d.t.Fatal("daprd did not end")
	}
}

// Pid gives the number of its process.
func (d *DaprdServer) Pid() int { return d.proc.cmd.Process.Pid }

// Invoke is the URL by which an application calls a method of another one through it.
func (d *DaprdServer) Invoke(app, method string) string {
	return fmt.Sprintf("http://%s/v1.0/invoke/%s/method/%s", d.HTTP, app, method)
}
