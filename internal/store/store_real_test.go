//go:build real

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// realReplica is a store on a real etcd, as a synchronizer has it.
func realReplica(t *testing.T, c *testkit.EtcdCluster, dataDir string) *Store {
	t.Helper()
	s := newStore(t, Config{Etcd: &EtcdConfig{Endpoints: c.Endpoints, DataDir: dataDir}})
	runStore(t, s)
	return s
}

// counting owns east and publishes one instance whose port counts up, for as long as it owns it.
type counting struct{ published atomic.Int64 }

func startCounting(t *testing.T, s *Store, id string) *counting {
	t.Helper()
	c := &counting{}
	m := s.Member(MemberConfig{ID: id, Clusters: []string{"east"}})
	testkit.Go(t, "member "+id, func(ctx context.Context) error {
		return m.Run(ctx, func(ctx context.Context, term *Term) error {
			for n := int64(1); ; n++ {
				port := int(n%60_000) + 1
				lists := map[catalog.Name]List{cart: {Instances: []*catalog.Instance{instance("a", port)}}}
				if err := term.Publish(ctx, lists, n == 1); err != nil {
					return err
				}
				c.published.Add(1)
				if !pause(ctx, 20*time.Millisecond) {
					return ctx.Err()
				}
			}
		})
	})
	return c
}

// follower follows the store and remembers whether it ever lost what it had.
type follower struct {
	*reader
	key string
}

func follow(t *testing.T, s *Store) *follower {
	t.Helper()
	return &follower{reader: read(t, s), key: s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart})}
}

func (f *follower) value() (epoch, seq uint64) {
	var v storev1.Slice
	if !f.get(f.key, &v) {
		return 0, 0
	}
	return v.Epoch, v.Seq
}

// advances waits until the reader has seen n more values, each newer than the last.
func (f *follower) advances(t *testing.T, within time.Duration, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testkit.Context(t), within)
	defer cancel()
	epoch, seq := f.value()
	testkit.Eventually(t, ctx, fmt.Sprintf("%d newer values within %v", n, within), func() error {
		e, s := f.value()
		switch {
		case e == 0 && epoch > 0:
			return errors.New("the reader lost what it had")
		case e < epoch || e == epoch && s < seq:
			return fmt.Errorf("back from %d.%d to %d.%d", epoch, seq, e, s)
		case e != epoch || s != seq:
			epoch, seq = e, s
			n--
		}
		if n > 0 {
			return fmt.Errorf("%d to go at %d.%d", n, epoch, seq)
		}
		return nil
	})
}

// leader gives the member that leads.
func leader(t *testing.T, c *testkit.EtcdCluster) *testkit.EtcdMember {
	t.Helper()
	// A client of its own: Status dials and reads the endpoints while the store's turns them.
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var led *testkit.EtcdMember
	testkit.Eventually(t, testkit.Context(t), "a leader", func() error {
		for _, m := range c.Members {
			ctx, cancel := context.WithTimeout(testkit.Context(t), time.Second)
			st, err := client.Status(ctx, m.Endpoint)
			cancel()
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				led = m
				return nil
			}
		}
		return errors.New("none")
	})
	return led
}

func TestRealLeaderAndQuorumAreLostAndComeBack(t *testing.T) {
	c := testkit.Etcd(t, 3)
	s, other := realReplica(t, c, ""), realReplica(t, c, "")
	startCounting(t, s, "a")
	startCounting(t, other, "b")
	f := follow(t, other)
	f.advances(t, 10*time.Second, 20)

	first := leader(t, c)
	first.Kill()
	f.advances(t, 15*time.Second, 20)

	second := leader(t, c)
	second.Kill() // one of three is left
	testkit.Eventually(t, testkit.Context(t), "the store to say that it does not answer", func() error {
		if s.Check(testkit.Context(t)) == nil {
			return errors.New("it answers")
		}
		return nil
	})
	f.waitFor(t, "the reader to keep what it has", func() error {
		if _, ok := f.entries[f.key]; !ok {
			return errors.New("it lost it")
		}
		return nil
	})
	// Longer than a lease: the terms are over and must be taken anew.
	if !pause(testkit.Context(t), leaseTTL+2*time.Second) {
		t.Fatal("no time left")
	}
	first.Start()
	second.Start()
	c.WaitReady()
	f.advances(t, 20*time.Second, 20)
	if err := s.Check(testkit.Context(t)); err != nil {
		t.Error(err)
	}
	f.waitFor(t, "one store all along", func() error {
		for _, id := range f.ids {
			if id != f.ids[0] {
				return fmt.Errorf("ids %v", f.ids)
			}
		}
		return nil
	})
}

func TestRealSilentMemberIsNoticed(t *testing.T) {
	c := testkit.Etcd(t, 3)
	s := realReplica(t, c, "")
	startCounting(t, s, "a")
	f := follow(t, s)
	f.advances(t, 10*time.Second, 20)
	for _, m := range c.Members {
		m.Pause()
		f.advances(t, 30*time.Second, 20)
		m.Resume()
		f.advances(t, 15*time.Second, 20)
	}
}

func TestRealStoreUnreachableAtStartIsWaitedFor(t *testing.T) {
	c := testkit.Etcd(t, 1)
	c.Members[0].Kill()
	s := newStore(t, Config{Etcd: &EtcdConfig{Endpoints: c.Endpoints}})
	testkit.Go(t, "store", s.Run)
	if !pause(testkit.Context(t), 3*time.Second) {
		t.Fatal("no time left")
	}
	select {
	case <-s.Ready():
		t.Fatal("ready without a store")
	default:
	}
	c.Members[0].Start()
	select {
	case <-s.Ready():
	case <-testkit.Context(t).Done():
		t.Fatal("never ready")
	}
}

func TestRealWipedStoreIsFilledAgain(t *testing.T) {
	c := testkit.Etcd(t, 1)
	s := realReplica(t, c, t.TempDir())
	startCounting(t, s, "a")
	f := follow(t, s)
	f.advances(t, 10*time.Second, 50)
	before, _ := f.value()

	m := c.Members[0]
	m.Kill()
	if err := os.RemoveAll(m.DataDir); err != nil {
		t.Fatal(err)
	}
	m.Start()
	f.waitFor(t, "a list of another store", func() error {
		if n := len(f.ids); n < 2 || f.ids[n-1] == f.ids[0] {
			return fmt.Errorf("ids %v", f.ids)
		}
		return nil
	})
	testkit.Eventually(t, testkit.Context(t), "values above the old epoch", func() error {
		if epoch, _ := f.value(); epoch <= before {
			return fmt.Errorf("epoch %d after %d", epoch, before)
		}
		return nil
	})
	f.advances(t, 10*time.Second, 20)
}

func TestRealRestoredStoreIsAnotherStore(t *testing.T) {
	c := testkit.Etcd(t, 1)
	s := realReplica(t, c, "")
	startCounting(t, s, "a")
	f := follow(t, s)
	f.advances(t, 10*time.Second, 20)

	// An older copy of the same store takes its place: same id, fewer revisions.
	m := c.Members[0]
	m.Kill()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(m.DataDir)); err != nil {
		t.Fatal(err)
	}
	m.Start()
	c.WaitReady()
	f.advances(t, 20*time.Second, 100)
	before, _ := f.value()
	m.Kill()
	if err := errors.Join(os.RemoveAll(m.DataDir), os.CopyFS(m.DataDir, os.DirFS(copied))); err != nil {
		t.Fatal(err)
	}
	m.Start()
	f.waitFor(t, "a list of another store", func() error {
		if n := len(f.ids); n < 2 || f.ids[n-1] == f.ids[0] {
			return fmt.Errorf("ids %v", strings.Join(f.ids, " "))
		}
		return nil
	})
	testkit.Eventually(t, testkit.Context(t), "values above the old epoch", func() error {
		if epoch, _ := f.value(); epoch <= before {
			return fmt.Errorf("epoch %d after %d", epoch, before)
		}
		return nil
	})
}
