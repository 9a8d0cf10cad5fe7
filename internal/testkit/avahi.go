//go:build linux

package testkit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// AvahiServer is a real avahi-daemon on a host of a Network, with a message bus of its own. Its
// methods are for the test's goroutine only.
//
// Its records that name a host (SRV, A, AAAA) live for 120 s and the others for 75 minutes;
// nothing that avahi-publish can say changes that.
type AvahiServer struct {
	t    testing.TB
	host *Host
	bus  string // address of the message bus
	proc *process
	all  map[string]*process // what is published, by a name of the caller's
}

// Avahi starts an avahi-daemon on the host, and returns when it answers.
func Avahi(t testing.TB, h *Host) *AvahiServer {
	t.Helper()
	a := &AvahiServer{t: t, host: h, all: map[string]*process{}}
	a.startBus()

	// It keeps its process's number under /run and reads static services under /etc/avahi: both
	// are private to it.
	conf := filepath.Join(t.TempDir(), "avahi.conf")
	writeFile(t, conf, fmt.Sprintf(`[server]
host-name=%s
use-ipv4=yes
use-ipv6=yes
allow-interfaces=%s
ratelimit-interval-usec=0
ratelimit-burst=0
[publish]
publish-hinfo=no
publish-workstation=no
`, h.Name, h.Link))
	words := "mount -t tmpfs none /run && mkdir /run/avahi-daemon && mount -t tmpfs none /etc/avahi && " +
		"exec " + lookPath(t, "avahi-daemon") + " --no-drop-root --no-rlimits --no-chroot --no-proc-title -f " + conf
	path, args := h.wrap("env", []string{"DBUS_SYSTEM_BUS_ADDRESS=" + a.bus, lookPath(t, "unshare"), "--mount", "sh", "-c", words})
	a.proc = newProcessAt(t, lookPath(t, path), "avahi-"+h.Name, args...)
	a.Start()
	return a
}

// startBus starts a message bus on which everybody may do everything.
func (a *AvahiServer) startBus() {
	dir := a.t.TempDir()
	socket := filepath.Join(dir, "bus")
	a.bus = "unix:path=" + socket
	conf := filepath.Join(dir, "bus.conf")
	writeFile(a.t, conf, fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_type="method_return"/>
    <allow send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="signal"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
  </policy>
</busconfig>
`, a.bus))
	bus := newProcessAt(a.t, lookPath(a.t, "dbus-daemon"), "dbus-"+a.host.Name, "--nofork", "--nopidfile", "--config-file", conf)
	bus.start()
	if err := awaitReady(a.t, []*process{bus}, func() error { _, err := os.Stat(socket); return err }); err != nil {
		a.t.Fatal(err)
	}
}

// Start starts a killed daemon again and waits until it answers. What had been published is
// published no more.
func (a *AvahiServer) Start() {
	a.t.Helper()
	a.proc.start()
	if err := awaitReady(a.t, []*process{a.proc}, func() error {
		_, err := a.Run("avahi-resolve-host-name", a.host.Name+".local")
		return err
	}); err != nil {
		a.t.Fatal(err)
	}
}

// Kill ends the daemon as a crash does: nobody hears a goodbye.
func (a *AvahiServer) Kill() {
	a.proc.kill()
	for name := range a.all {
		a.stop(name)
	}
}

// Publish announces a service at a host name and port; host "" is the daemon's own. Whatever
// was published under the same key is taken back first.
func (a *AvahiServer) Publish(key, name, service, host string, port int, texts ...string) {
	a.t.Helper()
	args := []string{"-s"}
	if host != "" {
		args = append(args, "-H", host)
	}
	a.publish(key, append(append(args, name, service, fmt.Sprint(port)), texts...)...)
}

// PublishAddress announces an address of a host name.
func (a *AvahiServer) PublishAddress(key, host, addr string) {
	a.t.Helper()
	a.publish(key, "-a", "-R", host, addr)
}

// publish runs an avahi-publish until Unpublish, and waits until it says that it did it.
func (a *AvahiServer) publish(key string, args ...string) {
	a.t.Helper()
	a.Unpublish(key)
	path, args := a.host.wrap("env", append([]string{"DBUS_SYSTEM_BUS_ADDRESS=" + a.bus, lookPath(a.t, "avahi-publish")}, args...))
	p := newProcessAt(a.t, lookPath(a.t, path), "publish", args...)
	p.start()
	a.all[key] = p
	if err := awaitReady(a.t, []*process{p}, func() error {
		if p.logHas("Established under name") == "" {
			return fmt.Errorf("avahi-publish %v: not established yet: %s", args, p.logTail())
		}
		return nil
	}); err != nil {
		a.t.Fatal(err)
	}
}

// Unpublish takes back what was published under a key, with a goodbye. Nothing happens where
// nothing was.
func (a *AvahiServer) Unpublish(key string) {
	a.t.Helper()
	a.stop(key)
}

func (a *AvahiServer) stop(key string) {
	if p := a.all[key]; p != nil {
		if !p.ended() {
			p.signal(syscall.SIGKILL) // the daemon sees its connection end
		}
		p.kill()
		delete(a.all, key)
	}
}

// Run runs one of avahi's tools on the host and gives what it printed.
func (a *AvahiServer) Run(name string, args ...string) (string, error) {
	cmd := a.host.Command("env", append([]string{"DBUS_SYSTEM_BUS_ADDRESS=" + a.bus, name}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}
