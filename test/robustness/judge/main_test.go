package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// A file is judged episode by episode, and one that is cut as far as it goes.
func TestAFileIsJudged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "history.jsonl")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := history.NewRecorder(file)
	for n := range 3 {
		r.Episode(n)
		r.Add(history.Event{Truth: &history.Truth{Cluster: "vms", Service: "cart"}})
		r.Add(history.Event{Fault: &history.Fault{Kind: "hang", Target: "vms", Ended: true, Effect: "felt"}})
		r.Add(history.Event{Process: &history.Process{Name: "s1", Died: "panic"}})
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"at":`); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	broken, err := judge(&out, name)
	if err == nil || !strings.Contains(err.Error(), "event 10") {
		t.Errorf("error %v, want the event that cannot be read", err)
	}
	if broken == 0 {
		t.Error("nothing is found in a history without calls in which a process dies")
	}
	for _, w := range []string{"episode 1: hang (vms): felt", "episode 2: hang", "I6", "panic", "nothing to judge"} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("it says\n%s\nwithout %q", out.String(), w)
		}
	}
	if _, err := judge(&out, name+".none"); err == nil {
		t.Error("a file that is not there is judged")
	}
}
