package daemon

import (
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/testkit"
)

// at is a listener at an address.
type at string

func (a at) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (a at) Close() error              { return nil }
func (a at) Addr() net.Addr            { return a }
func (a at) Network() string           { return "tcp" }
func (a at) String() string            { return string(a) }

func TestAnnouncer(t *testing.T) {
	kinds := newRegistries(testkit.Log(t), prometheus.NewRegistry())
	for _, tt := range []struct {
		name   string
		dapr   *config.Dapr
		listen string
		there  bool
		says   string
	}{
		{name: "no listener"},
		{name: "nobody is told", dapr: &config.Dapr{}, listen: "10.0.0.1:50003"},
		{name: "an address", dapr: &config.Dapr{Announce: &config.Announce{}}, listen: "10.0.0.1:50003", there: true},
		{name: "every address", dapr: &config.Dapr{Announce: &config.Announce{Interfaces: []string{"eth0"}}}, listen: "[::]:50003", there: true},
		// A name in the configuration may turn out to be loopback.
		{name: "loopback", dapr: &config.Dapr{Announce: &config.Announce{}}, listen: "127.0.1.1:50003", says: "dapr.announce: mdns: announce 127.0.1.1:50003: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := kinds.announcer(&config.Agent{Cluster: "east", Node: "n1", Dapr: tt.dapr}, at(tt.listen))
			if (a != nil) != tt.there || (err != nil) != (tt.says != "") || err != nil && !strings.HasPrefix(err.Error(), tt.says) {
				t.Errorf("%v, %v", a, err)
			}
		})
	}
}
