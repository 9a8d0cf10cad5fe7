//go:build linux

package testkit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// insideEnv tells a re-executed test binary that it is in a network namespace of its own.
const insideEnv = "FARCALL_TEST_NETNS"

// Inside puts the calling test into a network namespace of its own, where no interface but
// loopback is: packets of the machine stay out, and those of the test stay in. It must be the
// first thing that a test does:
//
//	if !testkit.Inside(t) {
//		return
//	}
//
// Outside it runs the same test again in another process, passes on what that says, fails where
// that fails, and returns false. In that process it returns true. A whole process is moved
// because threads of a Go program come and go, and each would have to be in the namespace.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		needRoot(t)
		shell(t, nil, "ip link set lo up")
		return true
	}
	needRoot(t)
	deadline, ok := t.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Minute)
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	name, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+name+"$", "-test.v",
		"-test.timeout="+time.Until(deadline).Round(time.Second).String())
	cmd.Env = append(os.Environ(), insideEnv+"="+name)
	// The parent-death signal comes when the thread that started the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	said := make(chan bool)
	go func() { said <- relayOutput(t.Output(), out) }()
	err := cmd.Run()
	_ = in.Close() // never fails
	passed := <-said
	switch {
	case err != nil:
		t.Errorf("the test in its own network namespace: %v", err)
	case !passed:
		t.Errorf("the process in the network namespace did not run %s", name)
	}
	return false
}

// relayOutput copies lines, each behind a mark, as the verdicts among them are not those of this
// process. It reports whether a test passed.
func relayOutput(to io.Writer, from io.Reader) (passed bool) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		passed = passed || strings.HasPrefix(lines.Text(), "--- PASS")
		fmt.Fprintf(to, "| %s\n", lines.Text())
	}
	_, _ = io.Copy(io.Discard, from) // after a line beyond reason: the process must not hang on its pipe
	return passed
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests against real servers as root (in CI, in a privileged container)")
	}
	for _, name := range []string{"ip", "nsenter", "unshare"} {
		lookPath(t, name)
	}
}

// Network is an Ethernet switch with hosts on it, each in a network namespace of its own, with
// multicast, IPv4 (a /24 of its own in 10.0.0.0/8) and IPv6. It ends with its test, and also
// when the test binary is killed: what holds a namespace is a process that dies with it.
// Methods of it and its hosts are for the test's goroutine only.
type Network struct {
	// Prefix is its IPv4 subnet, Prefix6 its IPv6 one.
	Prefix, Prefix6 netip.Prefix

	t     testing.TB
	wire  *process // holds the switch's namespace
	hosts int
}

// NewNetwork makes a network without hosts.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	needRoot(t)
	a, b := byte(64+rand.IntN(128)), byte(rand.IntN(256))
	n := &Network{
		t:       t,
		Prefix:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, a, b, 0}), 24),
		Prefix6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xfa, 0, a, b}), 64),
	}
	n.wire = namespace(t, "switch")
	// Snooping would keep multicast from hosts that have not yet told the switch that they listen.
	shell(t, n.wire, "ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up")
	return n
}

// namespace starts a process that holds a new network namespace, and one for its host name.
func namespace(t testing.TB, name string) *process {
	t.Helper()
	p := newProcessAt(t, lookPath(t, "unshare"), name, "--net", "--uts", lookPath(t, "sleep"), "infinity")
	p.start()
	Eventually(t, Context(t), "a network namespace for "+name, func() error {
		for _, kind := range []string{"net", "uts"} {
			ours, err := os.Readlink("/proc/self/ns/" + kind)
			if err != nil {
				return err
			}
			its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.cmd.Process.Pid, kind))
			if err != nil {
				return err
			}
			if its == ours {
				return fmt.Errorf("its %s is still ours", its)
			}
		}
		return nil
	})
	shell(t, p, "hostname "+name+" && ip link set lo up && echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
	return p
}

func lookPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: the packages that the tests need are in .ci/run", err)
	}
	return path
}

// Host is one of a Network's.
type Host struct {
	// Name is its host name; Link the name of its network interface.
	Name, Link string
	// Addr and Addr6 are its addresses.
	Addr, Addr6 netip.Addr

	n     *Network
	space *process // nil: the namespace of the test binary
	port  string   // its end in the switch
	only6 bool
}

// Host adds a host of that name, which is also the host name of what runs on it.
func (n *Network) Host(name string) *Host {
	n.t.Helper()
	h := n.host(name, "eth0")
	h.space = namespace(n.t, name)
	n.plug(h, h.space.cmd.Process.Pid)
	return h
}

// Attach connects the test binary itself, in whichever namespace it is, and returns it as a
// host. Its interface goes with the test.
func (n *Network) Attach() *Host {
	n.t.Helper()
	h := n.host("", fmt.Sprintf("far%04x", rand.IntN(1<<16)))
	n.plug(h, os.Getpid())
	n.t.Cleanup(func() {
		// Killing the switch would do it, but somewhat later.
		_ = exec.Command("ip", "link", "del", h.Link).Run() // it may be gone
	})
	return h
}

func (n *Network) host(name, link string) *Host {
	n.hosts++
	if n.hosts > 250 {
		n.t.Fatal("a network has at most 250 hosts")
	}
	a4, a6 := n.Prefix.Addr().As4(), n.Prefix6.Addr().As16()
	a4[3], a6[15] = byte(n.hosts), byte(n.hosts)
	return &Host{Name: name, Link: link, Addr: netip.AddrFrom4(a4), Addr6: netip.AddrFrom16(a6), n: n, port: "p" + strconv.Itoa(n.hosts)}
}

// plug lays the cable between the switch and the namespace of a process.
func (n *Network) plug(h *Host, pid int) {
	n.t.Helper()
	shell(n.t, n.wire, fmt.Sprintf("ip link add %s type veth peer name %s netns %d && ip link set %[1]s master br0 up", h.port, h.Link, pid))
	shell(n.t, h.space, fmt.Sprintf("ip link set %s multicast on up", h.Link))
	h.address()
}

// OnlyIPv6 takes the host's IPv4 address away.
func (h *Host) OnlyIPv6() {
	h.n.t.Helper()
	h.only6 = true
	shell(h.n.t, h.space, "ip -4 addr flush dev "+h.Link)
}

func (h *Host) address() {
	h.n.t.Helper()
	if h.only6 {
		shell(h.n.t, h.space, fmt.Sprintf("ip addr replace %s/64 dev %s nodad", h.Addr6, h.Link))
		return
	}
	shell(h.n.t, h.space, fmt.Sprintf("ip addr replace %s/24 dev %s && ip addr replace %s/64 dev %[2]s nodad", h.Addr, h.Link, h.Addr6))
}

// LinkDown takes the host's network interface down.
func (h *Host) LinkDown() {
	h.n.t.Helper()
	shell(h.n.t, h.space, "ip link set "+h.Link+" down")
}

// LinkUp takes it up again, with its addresses.
func (h *Host) LinkUp() {
	h.n.t.Helper()
	shell(h.n.t, h.space, "ip link set "+h.Link+" up")
	h.address() // taking it down took the IPv6 ones away
}

// Unplug pulls the host's cable out at the switch; the interface loses its carrier.
func (h *Host) Unplug() { h.n.t.Helper(); shell(h.n.t, h.n.wire, "ip link set "+h.port+" down") }

// Plug puts it back.
func (h *Host) Plug() { h.n.t.Helper(); shell(h.n.t, h.n.wire, "ip link set "+h.port+" up") }

// Isolate makes the switch pass nothing to and from the host, whose interface notices nothing;
// Rejoin ends that.
func (h *Host) Isolate() { h.n.t.Helper(); shell(h.n.t, h.n.wire, "ip link set "+h.port+" nomaster") }

// Rejoin ends what Isolate began.
func (h *Host) Rejoin() { h.n.t.Helper(); shell(h.n.t, h.n.wire, "ip link set "+h.port+" master br0") }

// Discard takes the interface away for good, as pulling out a network card does; Restore gives
// the host one of the same name and addresses.
func (h *Host) Discard() { h.n.t.Helper(); shell(h.n.t, h.n.wire, "ip link del "+h.port) }

// Restore ends what Discard began.
func (h *Host) Restore() {
	h.n.t.Helper()
	pid := os.Getpid()
	if h.space != nil {
		pid = h.space.cmd.Process.Pid
	}
	h.n.plug(h, pid)
}

// Command prepares a program to be run on the host, one that ends soon: what goes on running is
// for Daemon.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	h.n.t.Helper()
	path, all := h.wrap(name, args)
	return exec.Command(path, all...)
}

// Daemon prepares one of our own programs to be started on the host, as NewDaemon does.
func (h *Host) Daemon(path, name string, args ...string) *Daemon {
	h.n.t.Helper()
	path, args = h.wrap(path, args)
	return NewDaemon(h.n.t, path, name, args...)
}

// wrap makes a command line run on the host.
func (h *Host) wrap(path string, args []string) (string, []string) {
	if h.space == nil {
		return path, args
	}
	return "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", h.space.cmd.Process.Pid),
		fmt.Sprintf("--uts=/proc/%d/ns/uts", h.space.cmd.Process.Pid), "--", path}, args...)
}

// shell runs a few words of shell in a namespace (nil: this one) and fails the test where they
// fail.
func shell(t testing.TB, in *process, words string) {
	t.Helper()
	h := &Host{space: in}
	path, args := h.wrap("sh", []string{"-c", words})
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", words, err, out)
	}
}
