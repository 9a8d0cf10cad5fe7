//go:build real && unix

package bench

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// pairOf is two synchronizers, each a process of its own, that share a cluster whose registry is a file.
type pairOf struct {
	b        *testing.B
	registry string
	replicas []*replica
}

type replica struct {
	*testkit.Daemon
	http  string
	admin adminv1.AdminClient
}

func newPairOf(b *testing.B, registry string) *pairOf {
	b.Helper()
	p := &pairOf{b: b, registry: filepath.Join(b.TempDir(), "registry.yaml")}
	dir := b.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+string(filepath.Separator), "./cmd/synchronizer")
	cmd.Dir = testkit.Root(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	p.write(registry)
	etcd := testkit.Etcd(b, 3)
	for n := range 2 {
		grpcAt, httpAt := fmt.Sprint("127.0.0.1:", testkit.FreePort(b)), fmt.Sprint("127.0.0.1:", testkit.FreePort(b))
		file := filepath.Join(dir, fmt.Sprint("s", n, ".yaml"))
		text := fmt.Sprintf("federation: bench\nlisten: %s\nhttp: {listen: %s}\ndataDir: %s\nstore: {etcd: {endpoints: [%q, %q, %q]}}\nclusters:\n  - name: east\n    resolvers:\n      - file: {path: %s}\n",
			grpcAt, httpAt, filepath.Join(dir, fmt.Sprint("data", n)), etcd.Endpoints[0], etcd.Endpoints[1], etcd.Endpoints[2], p.registry)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		r := &replica{Daemon: testkit.NewDaemon(b, filepath.Join(dir, "synchronizer"), fmt.Sprint("s", n), "--config", file), http: httpAt}
		conn, err := grpc.NewClient(grpcAt, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		r.admin = adminv1.NewAdminClient(conn)
		p.replicas = append(p.replicas, r)
		r.Start()
	}
	return p
}

func (p *pairOf) write(text string) {
	p.b.Helper()
	if err := os.WriteFile(p.registry, []byte(text), 0o600); err != nil {
		p.b.Fatal(err)
	}
}

// of is a registry of so many services of 100 instances each.
func of(services int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for s := range services {
		fmt.Fprintf(&b, "  - name: svc-%d\n    instances:\n", s)
		for i := range 100 {
			fmt.Fprintf(&b, "      - {id: svc-%d-%d, address: 10.%d.%d.%d, port: 8080}\n", s, i, s>>8, s&255, i)
		}
	}
	return b.String()
}

// fresh waits until a replica says of the cluster that it is fresh, and holds so many instances, under an
// epoch above one. It gives the epoch.
func (p *pairOf) fresh(r *replica, instances, above uint64) (epoch uint64) {
	p.b.Helper()
	testkit.Eventually(p.b, testkit.Context(p.b), "the cluster is fresh", func() error {
		resp, err := r.admin.ListClusters(p.b.Context(), &adminv1.ListClustersRequest{})
		if err != nil {
			return err
		}
		for _, c := range resp.GetClusters() {
			if epoch = c.GetEpoch(); epoch > above && c.GetState() == catalogv1.ClusterState_SYNCED && c.GetInstances() == instances {
				return nil
			}
		}
		return fmt.Errorf("%v", resp.GetClusters())
	})
	return epoch
}

// counter adds up a metric of a replica over its labels; 0 where it does not answer.
func (p *pairOf) counter(r *replica, name string) (sum float64) {
	resp, err := http.Get("http://" + r.http + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if at := strings.LastIndexByte(rest, ' '); ok && at >= 0 && (at == 0 || rest[0] == '{') {
			v, err := strconv.ParseFloat(rest[at+1:], 64)
			if err != nil {
				p.b.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// owner waits until one of the two owns the cluster, and gives it and the other.
func (p *pairOf) owner() (owns, other *replica) {
	p.b.Helper()
	testkit.Eventually(p.b, testkit.Context(p.b), "somebody owns the cluster", func() error {
		for n, r := range p.replicas {
			if p.counter(r, "farcall_store_owned_clusters") == 1 {
				owns, other = r, p.replicas[1-n]
				return nil
			}
		}
		return errors.New("nobody does")
	})
	return owns, other
}

// settled waits until both live and no owner is about to hand over to the other.
func (p *pairOf) settled() (epoch uint64) {
	p.b.Helper()
	for {
		epoch = p.fresh(p.replicas[0], instances, 0)
		<-time.NewTimer(3 * time.Second).C
		if p.fresh(p.replicas[0], instances, 0) == epoch && p.fresh(p.replicas[1], instances, 0) == epoch {
			return epoch
		}
	}
}

const instances = 1000

// BenchmarkTakeOver is how long it takes from the death of a cluster's owner until the other replica says
// that the cluster is fresh under an owner after it.
func BenchmarkTakeOver(b *testing.B) {
	p := newPairOf(b, of(instances/100))
	var all []time.Duration
	for b.Loop() {
		epoch := p.settled()
		owner, other := p.owner()
		began := time.Now()
		owner.Kill()
		p.fresh(other, instances, epoch)
		all = append(all, time.Since(began))
		owner.Start()
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(all[len(all)-1].Milliseconds()), "max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkUnchanged is what is written of 100 000 instances of which none changes, in half a minute.
func BenchmarkUnchanged(b *testing.B) {
	p := newPairOf(b, of(1000))
	p.fresh(p.replicas[0], 100_000, 0)
	owner, _ := p.owner()
	var written []float64
	for b.Loop() {
		<-time.NewTimer(3 * time.Second).C // its first description follows its lists
		before := p.counter(owner, "farcall_store_values_put_total")
		<-time.NewTimer(30 * time.Second).C
		written = append(written, p.counter(owner, "farcall_store_values_put_total")-before)
	}
	b.ReportMetric(slices.Max(written), "values/30s")
	b.ReportMetric(0, "ns/op")
}
