package testkit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

var ports struct {
	sync.Mutex
	given map[int]bool
}

// FreePort gives a loopback port, free for TCP and UDP, that this test binary has not given
// before. It lies below the range that systems draw outgoing connections' ports from (Linux:
// 32768 and up), so that a killed server finds it free when it is started again.
func FreePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		if !ports.given[port] && portFree(port) {
			ports.given[port] = true
			return port
		}
	}
	t.Fatal("no free port between 10000 and 30000")
	return 0
}

func portFree(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return u.Close() == nil
}
