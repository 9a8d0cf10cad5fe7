package synchronizer

import (
	"testing"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

func TestWatchdog(t *testing.T) {
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	slice := func(cluster string, rev int64) *feedv1.Entry {
		return &feedv1.Entry{Revision: rev, Key: schema.Format(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: catalog.Name{Namespace: "d", Service: "s"}})}
	}
	own := func(rev int64) bool { return rev < 10 }
	w := &watchdog{schema: schema}
	w.note([]*feedv1.Entry{slice("east", 99)})
	w.begin("east")
	if w.foreign("east", own) {
		t.Error("what came before it began is not its own")
	}
	w.note([]*feedv1.Entry{slice("east", 9), slice("west", 99), {Key: schema.Format(keys.Key{Kind: keys.Replica, Replica: "r"}), Revision: 99}})
	if w.foreign("east", own) {
		t.Error("own writes, another cluster's and a heartbeat are nobody's hand")
	}
	w.note([]*feedv1.Entry{slice("east", 8), slice("east", 10)})
	if !w.foreign("east", own) {
		t.Error("a foreign write was not seen")
	}
	if w.foreign("east", own) {
		t.Error("it is told twice")
	}
	w.end("east")
	w.note([]*feedv1.Entry{slice("east", 99)})
	if w.foreign("east", own) {
		t.Error("goes on after its end")
	}
}
