package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/farcall/farcall/agent"
	"github.com/farcall/farcall/agent/uplink"
	"github.com/farcall/farcall/agent/view"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
	"github.com/farcall/farcall/synchronizer"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// push is a registry that notifies at once: what is measured behind it is ours.
type push struct {
	mu   sync.Mutex
	outs []resolvers.Sink
	last catalog.Update
}

func (p *push) set(instances ...*catalog.Instance) {
	u := catalog.Update{Full: true, Explicit: true, Snapshots: []catalog.Snapshot{{
		Source: "all", Services: []catalog.Name{{Service: "cart"}}, Instances: instances,
	}}}
	p.mu.Lock()
	p.last = u
	p.mu.Unlock()
	p.publish(u)
}

// publish notifies those who read already.
func (p *push) publish(u catalog.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.outs {
		o.Publish(u)
	}
}

func (p *push) Run(ctx context.Context, out resolvers.Sink) error {
	p.mu.Lock()
	p.outs = append(p.outs, out)
	out.Publish(p.last)
	p.mu.Unlock()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			p.outs = slices.DeleteFunc(p.outs, func(o resolvers.Sink) bool { return o == out })
			return ctx.Err()
		case <-tick.C:
			out.Confirm()
		}
	}
}

func instance(id string, port int, node, relay string) *catalog.Instance {
	return &catalog.Instance{
		ID: catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: id}, Node: node,
		Address: "127.0.0.1", Port: port, Relay: relay, Weight: 1, Health: catalog.Healthy,
	}
}

func listen(b *testing.B) net.Listener {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func registries(name string, r *push) intake.Config {
	return intake.Config{Cluster: name, Registries: []intake.Registry{{Name: "push", Resolver: r}}}
}

// start starts a synchronizer in this process and gives its address.
func start(b *testing.B, regs map[string]*push) string {
	b.Helper()
	cfg := synchronizer.Config{
		Federation: "bench", ReplicaID: "r1",
		Store: store.Config{Federation: "bench", Embedded: &store.EmbeddedConfig{DataDir: b.TempDir()}},
	}
	for name, r := range regs {
		cfg.Clusters = append(cfg.Clusters, synchronizer.Cluster{Intake: registries(name, r)})
	}
	deps := synchronizer.Deps{Log: testkit.Quiet(), Registry: prometheus.NewRegistry(), GRPC: listen(b), HTTP: listen(b)}
	s, err := synchronizer.New(cfg, deps)
	if err != nil {
		b.Fatal(err)
	}
	testkit.Go(b, "synchronizer", s.Run)
	return deps.GRPC.Addr().String()
}

// federation is start and an agent in each cluster; it gives the HTTP addresses of the agents.
func federation(b *testing.B, regs map[string]*push) (http map[string]string) {
	b.Helper()
	synchronizer := start(b, regs)
	http = map[string]string{}
	for name, r := range regs {
		d := agent.Deps{
			Log: testkit.Quiet(), Registry: prometheus.NewRegistry(),
			Internal: listen(b), HTTP: listen(b), GRPC: listen(b), Metrics: listen(b),
		}
		a, err := agent.New(agent.Config{
			Cluster: name, Node: name + "-1",
			Synchronizers: []string{synchronizer},
			Intake:        registries(name, r), Address: d.Internal.Addr().String(), AccessLog: "off",
		}, d)
		if err != nil {
			b.Fatal(err)
		}
		testkit.Go(b, "agent", a.Run)
		http[name] = d.HTTP.Addr().String()
	}
	return http
}

// app answers with as many bytes as the request asks for.
func app(b *testing.B, size int) int {
	b.Helper()
	l := listen(b)
	body := strings.Repeat("x", size)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a request that breaks off shows at the caller
		_, _ = io.WriteString(w, body)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }() // ends with Close
	b.Cleanup(func() { s.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// percentiles reports the median and the 99th percentile of durations.
func percentiles(b *testing.B, all []time.Duration) {
	slices.Sort(all)
	at := func(p float64) float64 { return float64(all[int(p*float64(len(all)-1))].Microseconds()) }
	b.ReportMetric(at(0.5), "p50-µs")
	b.ReportMetric(at(0.99), "p99-µs")
}

func get(b *testing.B, c *http.Client, u string, header http.Header) (*http.Response, error) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, u, strings.NewReader(strings.Repeat("y", 1024)))
	if err != nil {
		b.Fatal(err)
	}
	for k := range header {
		req.Header.Set(k, header.Get(k))
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp, err
}

// BenchmarkRelay is one call of 1 KiB, one at a time: to the application directly, and through
// two agents. Their difference is what the relay adds.
func BenchmarkRelay(b *testing.B) {
	port := app(b, 1024)
	east, west := &push{}, &push{}
	east.set()
	west.set(instance("cart-1", port, "west-1", ""))
	agents := federation(b, map[string]*push{"east": east, "west": west})
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	urls := map[string]string{
		"direct":  fmt.Sprintf("http://127.0.0.1:%d/x", port),
		"relayed": "http://" + agents["east"] + "/v1.0/invoke/cart/method/x",
	}
	testkit.Eventually(b, b.Context(), "east reaches west", func() error {
		resp, err := get(b, client, urls["relayed"], nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%d", resp.StatusCode)
		}
		return err
	})
	for _, name := range []string{"direct", "relayed"} {
		b.Run(name, func(b *testing.B) {
			var all []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				resp, err := get(b, client, urls[name], nil)
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(err)
				}
				all = append(all, time.Since(began))
			}
			percentiles(b, all)
		})
	}
	for _, name := range []string{"direct", "relayed"} {
		b.Run(name+"-16-at-once", func(b *testing.B) {
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if resp, err := get(b, client, urls[name], nil); err != nil || resp.StatusCode != http.StatusOK {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// probe is an agent's view that says when it changed.
type probe struct {
	*view.Book
	changed chan struct{}
}

func (p *probe) Changed(ch mirror.Changes) {
	p.Book.Changed(ch)
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// BenchmarkPropagation is the time from a registry's notification in west until an agent of
// east would pick the new instance, with a raw etcd put and watch beside it.
func BenchmarkPropagation(b *testing.B) {
	b.Run("raw-etcd", rawEtcd)
	b.Run("registry-to-pick", func(b *testing.B) {
		west := &push{}
		west.set(instance("cart-0", 80, "west-1", "127.0.0.1:1"))
		p := &probe{changed: make(chan struct{}, 1), Book: view.New(view.Config{Self: reach.Self{Cluster: "east", Node: "n", Loopback: true}}, view.Deps{Metrics: prometheus.NewRegistry()})}
		up := uplink.New(uplink.Config{
			Synchronizers: []string{start(b, map[string]*push{"west": west})},
			Agent:         &catalogv1.Agent{Cluster: "east", Node: "n", Incarnation: "i", Address: "127.0.0.1:1"},
		}, uplink.Deps{Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Listener: p})
		testkit.Go(b, "uplink", up.Run)
		until := func(id string) {
			for {
				pl, err := p.Service(catalog.Name{Namespace: catalog.DefaultNamespace, Service: "cart"}).Plan(strategy.ExternalOnly, "")
				if err != nil {
					b.Fatal(err)
				}
				if got, ok := pl.Picker.Pick(nil); ok && got.Instance.Instance == id {
					return
				}
				select {
				case <-p.changed:
				case <-b.Context().Done():
					b.Fatal("the change never came")
				}
			}
		}
		until("cart-0")
		var all []time.Duration
		n := 0
		for b.Loop() {
			n++
			began := time.Now()
			west.set(instance(fmt.Sprint("cart-", n), 80, "west-1", "127.0.0.1:1"))
			until(fmt.Sprint("cart-", n))
			all = append(all, time.Since(began))
		}
		percentiles(b, all)
	})
}

// rawEtcd is the floor: put a key, see it in a watch.
func rawEtcd(b *testing.B) {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(b.TempDir(), "etcd")
	cfg.LogLevel = "fatal"
	loop := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = loop, loop, loop, loop
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	<-e.Server.ReadyNotify()
	c := v3client.New(e.Server)
	defer c.Close()
	w := c.Watch(b.Context(), "k", clientv3.WithPrefix())
	value := strings.Repeat("v", 300)
	var all []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := c.Put(b.Context(), "k", value); err != nil {
			b.Fatal(err)
		}
		<-w
		all = append(all, time.Since(began))
	}
	percentiles(b, all)
}
