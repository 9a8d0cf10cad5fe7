package holds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var now = time.Unix(1_800_000_000, 0)

func hold(service, id string, since, until time.Duration, why guard.Reason) guard.Hold {
	return guard.Hold{
		ID:    catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: service}, Instance: id},
		Since: now.Add(since), Until: now.Add(until), Reason: why, Detail: string(why) + " in words", Doubted: why != guard.Burst,
	}
}

// What was written is read with the time that it had left, however long nobody was there.
func TestRecordsAreRead(t *testing.T) {
	listed := hold("cart", "0", -5*time.Second, 55*time.Second, guard.Burst)
	listed.Listed = true
	held := []guard.Hold{
		listed,
		hold("cart", "1", -5*time.Second, 55*time.Second, guard.Burst),
		hold("cart", "2", -50*time.Second, 10*time.Second, guard.Catalogue),
		hold("cart", "3", -5*time.Second, 55*time.Second, guard.Burst),
		hold("order", "1", -5*time.Second, 55*time.Second, guard.Burst),
		hold("order", "2", -time.Minute, -time.Second, guard.Reset),
	}
	groups := Record(now, "consul", held)
	if len(groups) != 4 || len(groups[1].GetServices()) != 2 || fmt.Sprint(groups[1].GetServices()[0].GetIds()) != "[1 3]" {
		t.Errorf("the groups are %v", groups)
	}
	b, err := proto.Marshal(&storev1.Holds{Groups: groups})
	if err != nil {
		t.Fatal(err)
	}
	var stored storev1.Holds
	if err := proto.Unmarshal(b, &stored); err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Hour)
	got := Read(later, "east", stored.GetGroups())
	if len(got) != 1 || len(got["consul"]) != len(held) {
		t.Fatalf("read is %v", got)
	}
	by := map[catalog.ID]guard.Hold{}
	for _, h := range got["consul"] {
		by[h.ID] = h
	}
	for _, h := range held {
		h.Since, h.Until = h.Since.Add(time.Hour), h.Until.Add(time.Hour)
		if h.Until.Before(later) {
			h.Until = later // nothing was left
		}
		if is := by[h.ID]; !is.Since.Equal(h.Since) || !is.Until.Equal(h.Until) || is.Reason != h.Reason || is.Detail != h.Detail || is.Doubted != h.Doubted || is.Listed != h.Listed {
			t.Errorf("%v became %v", h, is)
		}
	}
	if got := Record(now, "consul", nil); got != nil {
		t.Errorf("nothing held is %v", got)
	}
}

// What a registry says of itself reaches the record; it must not keep the record from being written.
func TestWhatIsNoText(t *testing.T) {
	bad, long := hold("cart", "2\xff", 0, time.Minute, guard.Burst), hold("cart", "3", 0, time.Minute, guard.Reset)
	long.Detail = strings.Repeat("\xff", 100_000)
	groups := Record(now, "consul", []guard.Hold{hold("cart", "1", 0, time.Minute, guard.Burst), bad, long})
	b, err := proto.Marshal(&storev1.Holds{Groups: groups})
	if err != nil || len(b) > 4000 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if got := Read(now, "east", groups)["consul"]; len(got) != 2 || got[0].ID.Instance != "1" || got[1].ID.Instance != "3" {
		t.Errorf("read is %v", got)
	}
}

func TestRecordsThatMakeNoSense(t *testing.T) {
	for name, d := range map[string]*durationpb.Duration{
		"none": nil, "negative": durationpb.New(-1), "of mixed signs": {Seconds: 1, Nanos: -1}, "for ever": {Seconds: 1 << 36},
	} {
		got := Read(now, "east", []*storev1.HoldGroup{{
			Registry: "consul", Reason: "newer than this", Held: d, Left: d,
			Services: []*storev1.HeldService{{Service: "cart", Ids: []string{"1"}}},
		}})["consul"]
		if len(got) != 1 || !got[0].Since.Equal(now) || !got[0].Until.Equal(now.Add(guard.DefaultHold)) || got[0].Reason != guard.Reset {
			t.Errorf("%s: %v", name, got)
		}
	}
}
