package mdns

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func deps(t testing.TB) Deps {
	return Deps{Log: testkit.Log(t), Metrics: NewMetrics(prometheus.NewRegistry()), Registry: "east/mdns"}
}
