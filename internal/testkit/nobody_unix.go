//go:build unix

package testkit

import (
	"net"
	"syscall"
	"testing"
)

// Nobody gives a loopback TCP address that refuses connections until the test ends. A socket is
// bound to it that never listens, so that nobody else can take the port meanwhile: a listener
// that was closed leaves it to the next process that asks the system for one.
func Nobody(t testing.TB) *net.TCPAddr {
	t.Helper()
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) }) // bound only: nothing to lose
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		t.Fatalf("bound to %T", bound)
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: at.Port}
}
