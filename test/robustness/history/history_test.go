package history

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// all has one event of each part, with every field that can be lost on the way set somewhere.
func all() []Event {
	return []Event{
		{Truth: &Truth{Cluster: "vms", Service: "cart", Instances: []string{"a", "b"}, Ever: []string{"a", "b", "c"}, How: "absence"}},
		{Phase: &Phase{Name: Faults}},
		{Fault: &Fault{Kind: "hang", Target: "consul", Cluster: "vms", Silences: true, Callers: true, Forgets: "agent x", Ended: true, Effect: "3 reads"}},
		{View: &View{Who: "agent vms/vms-1", Cluster: "vms", Service: "cart", Instances: []string{"a"}, Unknown: true, Began: true}},
		{Entry: &Entry{Who: "store", Stream: 2, Store: "id", Key: "/k", Revision: 7, Epoch: 3, Seq: 9, Deleted: true, Writer: "s1"}},
		{Cluster: &Cluster{Who: "synchronizer s1", Name: "vms", State: "SYNCED", Age: time.Second}},
		{Call: &Call{ID: "1", From: "vms", Service: "cart", Strategy: "any", Pin: "zone", Idempotent: true, Sent: 5, Timeout: 6, Code: 503, Reason: "R", Error: "e", Lost: true, ServedBy: "zone/a"}},
		{Run: &Run{ID: "1", Cluster: "zone", Service: "cart", Instance: "a"}},
		{Process: &Process{Name: "s1", RSS: 1, Goroutines: 2, Files: 3, Died: "panic"}},
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	var file bytes.Buffer
	r := NewRecorder(&file)
	r.Episode(4)
	for _, e := range all() {
		r.Add(e)
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	if want := r.Events(); len(want) != len(all()) || !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v\nwant\n%+v", got, want)
	}
	for i, e := range got {
		if e.Episode != 4 || i > 0 && e.At < got[i-1].At {
			t.Errorf("event %d is of episode %d at %v", i, e.Episode, e.At)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"half a line", `{"at":1,"episode":1,"run":{"id":"1","cluster":"a","service":"s","instance":"i"}}` + "\n" + `{"at":2,`, "event 2"},
		{"an unknown field", `{"at":1,"episode":1,"runs":{}}`, "event 1"},
		{"nothing said", `{"at":1,"episode":1}`, "0 parts"},
		{"two things said", `{"at":1,"episode":1,"run":{},"phase":{}}`, "2 parts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Read(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestStandingIsTheLastOfEachAndTheFirstOfProcesses(t *testing.T) {
	var r = NewRecorder(&bytes.Buffer{})
	view := func(who, service, id string) Event {
		return Event{View: &View{Who: who, Cluster: "vms", Service: service, Instances: []string{id}}}
	}
	r.Episode(1)
	for _, e := range []Event{
		view("of another world", "cart", "0"), {Phase: &Phase{Name: World}},
		view("a", "cart", "1"), view("b", "cart", "2"), view("a", "orders", "3"), view("a", "cart", "4"),
		{Process: &Process{Name: "s1", Files: 10}}, {Process: &Process{Name: "s1", Files: 20}},
		{Run: &Run{ID: "1"}}, {Phase: &Phase{Name: Faults}}, {Fault: &Fault{Kind: "k"}}, {Call: &Call{ID: "1"}},
	} {
		r.Add(e)
	}
	r.Episode(2)
	r.Add(view("b", "cart", "5"))
	var got []string
	for _, e := range r.Events() {
		switch {
		case e.View != nil:
			got = append(got, e.View.Who+" "+e.View.Service+" "+e.View.Instances[0])
		case e.Process != nil:
			got = append(got, "process")
			if e.Process.Files != 10 {
				t.Errorf("the process that stands is %+v, want the first", e.Process)
			}
		default:
			t.Errorf("%+v still stands", e)
		}
	}
	if want := "b cart 2,a orders 3,a cart 4,process,b cart 5"; strings.Join(got, ",") != want {
		t.Errorf("events %q, want %s", got, want)
	}
}

// A history that is read back is taken apart as it was recorded.
func TestEpisodesAreWhatTheRecorderGave(t *testing.T) {
	var file bytes.Buffer
	r := NewRecorder(&file)
	var want [][]Event
	for episode := range 4 {
		if episode > 0 {
			r.Episode(episode)
		}
		if episode == 2 {
			r.Add(Event{Phase: &Phase{Name: World}})
		}
		for range episode + 1 {
			for _, e := range all() {
				r.Add(e)
			}
		}
		if episode > 0 {
			want = append(want, r.Events())
		}
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	events, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	if got := Episodes(events); !reflect.DeepEqual(got, want) {
		t.Errorf("%d episodes\n%+v\nwant %d\n%+v", len(got), got, len(want), want)
	}
	if got := Episodes(nil); got != nil {
		t.Errorf("of nothing, %+v", got)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

func TestAFailedWriteIsTold(t *testing.T) {
	r := NewRecorder(failing{})
	r.Add(all()[0])
	if err := r.Flush(); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("error %v", err)
	}
}

func TestRecorderIsForMany(t *testing.T) {
	var file bytes.Buffer
	r := NewRecorder(&file)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				r.Add(all()[7])
				_ = r.Events()
			}
		})
	}
	wg.Wait()
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(&file); err != nil || len(got) != 200 {
		t.Errorf("%d events, %v", len(got), err)
	}
}

// FuzzRead: no text makes it panic, and what it takes it writes and reads again the same.
func FuzzRead(f *testing.F) {
	var file bytes.Buffer
	r := NewRecorder(&file)
	for _, e := range all() {
		r.Add(e)
	}
	if err := r.Flush(); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Add([]byte(`{"at":-1,"episode":1,"view":{"instances":null}}`))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		var out bytes.Buffer
		r := NewRecorder(&out)
		for _, e := range first {
			r.Add(e)
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		again, err := Read(&out)
		if err != nil || len(again) != len(first) {
			t.Fatalf("%d events were %d: %v", len(first), len(again), err)
		}
		for i := range again {
			again[i].At, again[i].Episode = first[i].At, first[i].Episode
		}
		if !reflect.DeepEqual(again, first) {
			t.Errorf("%+v became %+v", first, again)
		}
		Standing(first)
	})
}
