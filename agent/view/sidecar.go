package view

import (
	"cmp"
	"net"
	"strconv"

	"github.com/farcall/farcall/internal/catalog"
)

// Sidecar returns where the Dapr sidecar next to an own instance takes calls from others: at the
// port that the agent was told, else at the relay that the instance's registry states; port 0
// where nobody states it. The instance's own port is its application's, and never this one.
func (b *Book) Sidecar(i *catalog.Instance) (host string, port int) {
	if port := b.cfg.Ports[i.Name]; port > 0 {
		return cmp.Or(i.Address, "127.0.0.1"), port
	}
	host, p, err := net.SplitHostPort(i.Relay)
	if err != nil || i.Relay == b.cfg.Self.Address {
		return "", 0
	}
	port, err = strconv.Atoi(p)
	if err != nil {
		return "", 0
	}
	return host, port
}
