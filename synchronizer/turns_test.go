package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

func TestTurnsAreTakenInOrderAndAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(3, 100, newTestHub(t).metrics)
		var mu sync.Mutex
		var order []int
		now, most := 0, 0
		var all sync.WaitGroup
		for n := range 20 {
			all.Go(func() {
				end, err := turns.take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, n)
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				mu.Lock()
				now--
				mu.Unlock()
				end()
			})
			synctest.Wait() // it is in the queue, or has its turn
		}
		all.Wait()
		if most != 3 {
			t.Errorf("%d had their turn at once, want 3", most)
		}
		for n, who := range order {
			if who/3 != n/3 { // three begin at one moment
				t.Fatalf("the order is %v", order)
			}
		}
	})
}

func TestTurnThatTakesTooLongEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 100, newTestHub(t).metrics)
		stuck, err := turns.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		next, err := turns.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != snapshotTurn {
			t.Errorf("the next waited %s", waited)
		}
		next()
		stuck() // late, it must not make room for two
		if _, err := turns.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), snapshotTurn/2)
		defer cancel()
		if _, err := turns.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("two turns at once where one is allowed: %v", err)
		}
		time.Sleep(snapshotTurn) // the timer of the turn that was not ended
	})
}

func TestTooManyAreToldWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 2, newTestHub(t).metrics)
		end, err := turns.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var waiting sync.WaitGroup
		for range 2 {
			waiting.Go(func() {
				end, err := turns.take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				end()
			})
		}
		synctest.Wait()
		_, err = turns.take(t.Context())
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("the fourth: %v", err)
		}
		var after time.Duration
		for _, d := range status.Convert(err).Details() {
			if r, ok := d.(*errdetails.RetryInfo); ok {
				after = r.GetRetryDelay().AsDuration()
			}
		}
		if after < minRetry || after > maxRetry {
			t.Errorf("it is to come back after %s", after)
		}
		end()
		waiting.Wait()
	})
}

// feedOf serves the feed of a hub over TCP and gives a client of it.
func feedOf(t *testing.T, h *hub) feedv1.FeedClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := grpc.NewServer()
	feedv1.RegisterFeedServer(srv, &feed{s: &Synchronizer{cfg: Config{Federation: "test"}, hub: h, metrics: h.metrics}, stopping: ctx})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Stop
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); cancel(); srv.Stop(); <-done })
	return feedv1.NewFeedClient(conn)
}

// TestReaderThatDoesNotReadHoldsUpNobody lets agents stop reading in the middle of a snapshot, more of
// them than have their turn at a time, while changes go on for longer than the history: others are
// served meanwhile, what is kept stays bounded, and those that read again are given everything anew and
// lack nothing.
func TestReaderThatDoesNotReadHoldsUpNobody(t *testing.T) {
	ctx := testkit.Context(t)
	h := newTestHub(t)
	h.turns = newTurns(2, 100, h.metrics)
	h.turns.limit = 100 * time.Millisecond
	var first []store.Entry
	for n := range 300 { // far more than HTTP/2 takes of a stream that nobody reads
		first = append(first, store.Entry{Key: fmt.Sprintf("big/%03d", n), Value: make([]byte, 32<<10), Revision: 1})
	}
	list(h, "s1", 1, first...)
	client := feedOf(t, h)
	follow := func(node string) grpc.ServerStreamingClient[feedv1.WatchResponse] {
		t.Helper()
		stream, err := client.Watch(ctx, &feedv1.WatchRequest{Cluster: "east", Node: node})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	// held is what a stream brings to its reader until want is there, and how many snapshots were begun.
	held := func(stream grpc.ServerStreamingClient[feedv1.WatchResponse], want string) (keys map[string]bool, snapshots int) {
		t.Helper()
		keys = map[string]bool{}
		for whole := true; !keys[want] || !whole; {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if m.GetSnapshotBegin() {
				clear(keys)
				snapshots++
				whole = false
			}
			whole = whole || m.GetSnapshotEnd()
			for _, e := range m.GetEntries() {
				if keys[e.GetKey()] = true; e.GetDeleted() {
					delete(keys, e.GetKey())
				}
			}
		}
		return keys, snapshots
	}
	var stuck []grpc.ServerStreamingClient[feedv1.WatchResponse]
	for n := range 4 {
		stream := follow(fmt.Sprint("stuck-", n))
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, stream)
	}
	live := follow("live")
	if _, n := held(live, "big/299"); n != 1 {
		t.Errorf("it took %d snapshots", n)
	}
	rev := int64(1)
	for rev < 3*historyEntries/messageEntries {
		rev++
		batch := make([]store.Entry, 0, messageEntries)
		for n := range messageEntries {
			batch = append(batch, put(fmt.Sprintf("small/%d", n), rev))
		}
		h.Apply(append(batch, put(fmt.Sprintf("mark/%d", rev), rev)), rev)
		if keys, n := held(live, fmt.Sprintf("mark/%d", rev)); n != 0 || len(keys) == 0 {
			t.Fatalf("at revision %d the one that reads is given %d snapshots", rev, n)
		}
	}
	if h.history.entries > historyEntries {
		t.Errorf("%d changes are kept", h.history.entries)
	}
	for _, stream := range stuck {
		keys, snapshots := held(stream, fmt.Sprintf("mark/%d", rev))
		if want := len(first) + messageEntries + int(rev) - 1; len(keys) != want || snapshots != 1 {
			t.Errorf("one that read again holds %d keys after %d further snapshots, want %d after 1", len(keys), snapshots, want)
		}
	}
	if n := countOf(t, h.metrics.slowReaders); n != 4 {
		t.Errorf("%v readers are counted as slow, want 4", n)
	}
}
