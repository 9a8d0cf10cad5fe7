package synchronizer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// contributor is an agent of the cluster edge with a real stream. It says how it stands several
// times a second, sends the whole list of what it is granted, and every change after that.
type contributor struct {
	t      *testing.T
	node   string
	stream grpc.BidiStreamingClient[feedv1.ContributeRequest, feedv1.ContributeResponse]
	// leave ends the stream at once; it returns when both ends' goroutines here have ended.
	leave func()

	mu     sync.Mutex
	links  map[string][]string // ids of cart by link
	broken map[string]string   // errors by link
	terms  map[string]uint64   // links that it reports
	sent   map[string]uint64   // term under which the whole list was sent
	read   time.Time           // when its registries were read last; zero: just now
	owner  bool
	err    error // of the stream
}

// contribute connects an agent that hears these links.
func (r *replica) contribute(t *testing.T, node string, links map[string][]string) *contributor {
	t.Helper()
	ctx, cancel := context.WithCancel(testkit.Context(t))
	c := &contributor{t: t, node: node, links: maps.Clone(links), broken: map[string]string{}, terms: map[string]uint64{}, sent: map[string]uint64{}}
	var err error
	if c.stream, err = r.feed.Contribute(ctx); err != nil {
		t.Fatal(err)
	}
	first := &feedv1.ContributeRequest{Contributor: &feedv1.Contributor{Federation: "test", Cluster: "edge", Node: node, Incarnation: "of-" + node}, Standing: c.standing()}
	if err := c.stream.Send(first); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	both.Go(c.receive)
	both.Go(func() { c.talk(ctx) })
	c.leave = sync.OnceFunc(func() { cancel(); both.Wait() })
	t.Cleanup(c.leave)
	return c
}

func (c *contributor) receive() {
	for {
		m, err := c.stream.Recv()
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			return
		}
		c.owner = m.GetOwner()
		for _, g := range m.GetGrants() {
			if c.terms[g.GetLink()] = g.GetTerm(); g.GetTerm() == 0 {
				delete(c.terms, g.GetLink())
			}
		}
		c.mu.Unlock()
	}
}

func (c *contributor) talk(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%10 == 0 {
			c.send(&feedv1.ContributeRequest{Standing: c.standing()})
		}
		c.mu.Lock()
		for link, term := range c.terms {
			if c.sent[link] != term && c.links[link] != nil {
				c.sent[link] = term
				c.send(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: link, Term: term, Full: true, Revision: "1", Snapshots: carts(c.links[link])}})
			}
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// send sends; a stream that is over is seen by receive.
func (c *contributor) send(m *feedv1.ContributeRequest) { _ = c.stream.Send(m) }

func (c *contributor) standing() *feedv1.Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, age := &feedv1.Standing{}, time.Duration(0)
	if !c.read.IsZero() {
		age = time.Since(c.read)
	}
	for _, name := range slices.Sorted(maps.Keys(c.links)) {
		st.Links = append(st.Links, &feedv1.Link{Name: name, Complete: true, Age: durationpb.New(age), Error: c.broken[name]})
	}
	return st
}

// set makes a link list these, by the registry's explicit word or a plain read.
func (c *contributor) set(link string, explicit bool, revision string, ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links[link] = append([]string{}, ids...)
	if term := c.terms[link]; term > 0 && c.sent[link] == term {
		c.send(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: link, Term: term, Explicit: explicit, Revision: revision, Snapshots: carts(ids)}})
	}
}

// change changes what it says of its links.
func (c *contributor) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *contributor) term(link string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.terms[link]
}

// failed gives the error that ended the stream, waiting for it.
func (c *contributor) failed(t *testing.T) (err error) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), "the stream ends", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			return fmt.Errorf("it goes on")
		}
		err = c.err
		return nil
	})
	return err
}

func carts(ids []string) []*feedv1.Snapshot {
	s := &feedv1.Snapshot{Source: "cart", Services: []*feedv1.ServiceName{{Namespace: "default", Service: "cart"}}}
	for _, id := range ids {
		s.Instances = append(s.Instances, &catalogv1.Instance{Namespace: "default", Service: "cart", Id: id, Address: "10.0.0.1", Port: 80, Weight: 1})
	}
	return []*feedv1.Snapshot{s}
}
