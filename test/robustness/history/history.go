// Package history is what happened in a run of the robustness suite, one event a line, as JSON: what
// the registries truly held, what went wrong, what everybody showed, and what became of every call.
// It only records and reads; package verdict judges. It runs no goroutines.
package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Event is one thing that happened. One of its parts is set.
type Event struct {
	// At is the time since the recording began, by the recorder's monotonic clock, in nanoseconds.
	At time.Duration `json:"at"`
	// Episode counts from 1; 0 is the time before the first.
	Episode int `json:"episode"`

	Truth   *Truth   `json:"truth,omitempty"`
	Fault   *Fault   `json:"fault,omitempty"`
	View    *View    `json:"view,omitempty"`
	Entry   *Entry   `json:"entry,omitempty"`
	Cluster *Cluster `json:"cluster,omitempty"`
	Call    *Call    `json:"call,omitempty"`
	Run     *Run     `json:"run,omitempty"`
	Process *Process `json:"process,omitempty"`
	Phase   *Phase   `json:"phase,omitempty"`
}

// Truth is what a service really has in one cluster, from now on: what an honest registry would list.
// A registry that lies does not change it.
type Truth struct {
	Cluster   string   `json:"cluster"`
	Service   string   `json:"service"`
	Instances []string `json:"instances"` // in order; none means that it has none
	// Ever are all that it ever had, in order, these included: anybody else is invented.
	Ever []string `json:"ever"`
	// How the last change is told by the registry: "explicit" or "absence"; "" at the beginning.
	How string `json:"how,omitempty"`
}

// Fault is something that goes wrong, at its beginning and at its end.
type Fault struct {
	Kind   string `json:"kind"`   // e.g. "etcd-leader-killed"
	Target string `json:"target"` // what it was done to
	// Cluster is the one that it is confined to; "" where it is not.
	Cluster string `json:"cluster,omitempty"`
	// Since is when it began to be made; the event of its beginning is when it was.
	Since time.Duration `json:"since,omitempty"`
	// Silences says that nothing can be learnt of Cluster's registry while it lasts: its age grows.
	Silences bool `json:"silences,omitempty"`
	// Callers says that callers may see typed errors of it, from its beginning until all is settled.
	Callers bool `json:"callers,omitempty"`
	// Forgets names the observer ("agent vms/vms-1") that loses what it kept on its disk, so that it
	// may begin anew without knowing anything; "" for none.
	Forgets string `json:"forgets,omitempty"`
	Ended   bool   `json:"ended,omitempty"`
	// Effect is, at the end, what was seen of it; "" means that it had none, and does not count.
	Effect string `json:"effect,omitempty"`
}

// View is what somebody shows of a service in one cluster, whenever it changes.
type View struct {
	Who       string   `json:"who"` // "agent vms/n1", "synchronizer r1"
	Cluster   string   `json:"cluster"`
	Service   string   `json:"service"`
	Instances []string `json:"instances"` // in order
	// Unknown says that the observer says it does not know the cluster yet: a list without instances
	// is then no claim that there are none.
	Unknown bool `json:"unknown,omitempty"`
	// Began says that this is the first that was seen of a new process or stream.
	Began bool `json:"began,omitempty"`
}

// Entry is a value that a reader of the feed or of the store was given or holds. Who is "store",
// "feed <synchronizer>" or "disk <agent>".
type Entry struct {
	Who string `json:"who"`
	// Stream counts who's snapshots: within one, revisions of a key do not go back.
	Stream   uint64 `json:"stream"`
	Store    string `json:"store"`
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Epoch    uint64 `json:"epoch"`
	Seq      uint64 `json:"seq"`
	Deleted  bool   `json:"deleted,omitempty"`
	// Writer is, for a value in the store itself, the replica that owned the cluster; "" elsewhere.
	Writer string `json:"writer,omitempty"`
}

// Cluster is what somebody says of a cluster as a whole.
type Cluster struct {
	Who   string        `json:"who"`
	Name  string        `json:"name"`
	State string        `json:"state"` // SYNCED, STALE, ...
	Age   time.Duration `json:"age"`
}

// Call is a call that came to its end, or did not.
type Call struct {
	ID       string `json:"id"` // unique; the application writes it into its ledger
	From     string `json:"from"`
	Service  string `json:"service"`
	Strategy string `json:"strategy"`
	// Pin is the cluster that the call was limited to; "" for none.
	Pin string `json:"pin,omitempty"`
	// Idempotent says that it may be executed more than once.
	Idempotent bool          `json:"idempotent,omitempty"`
	Sent       time.Duration `json:"sent"`
	Timeout    time.Duration `json:"timeout"`
	// Code is the HTTP status, 0 where there was no answer in Timeout and a grace, or no connection
	// to the caller's own agent: Error says which.
	Code int `json:"code"`
	// Reason is of Farcall's error body; Application where the application itself answered an error.
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
	// Lost says that the caller's own agent was down, so that no answer could come.
	Lost     bool   `json:"lost,omitempty"`
	ServedBy string `json:"served_by,omitempty"` // <cluster>/<instance>
}

// Application is Call.Reason where the application answered with an error.
const Application = "APPLICATION"

// Run is one execution of a call by an application, from its ledger.
type Run struct {
	ID       string `json:"id"`
	Cluster  string `json:"cluster"`
	Service  string `json:"service"`
	Instance string `json:"instance"`
}

// Process is the state of one of our processes.
type Process struct {
	Name       string `json:"name"`
	RSS        int64  `json:"rss"` // bytes
	Goroutines int    `json:"goroutines"`
	Files      int    `json:"files"`
	// Died is why it ended by itself, a panic or a data race; "" where it did not.
	Died string `json:"died,omitempty"`
}

// Phase divides an episode.
type Phase struct {
	Name string `json:"name"`
}

// The phases' names: before Faults all is calm; at Healed the last fault has ended, and at Settled
// everybody agrees with the truth, or had the time for it that the promises give.
const (
	Faults  = "faults"
	Healed  = "healed"
	Settled = "settled"
	// World is a new world's: nothing of before stands in it.
	World = "world"
)

// Recorder writes a history. It is safe for concurrent use.
type Recorder struct {
	began time.Time

	mu      sync.Mutex
	episode int
	out     *bufio.Writer
	events  []Event // of the running episode, and what of before it still holds
	err     error
}

// NewRecorder begins a history, written to out. The caller closes out after Flush.
func NewRecorder(out io.Writer) *Recorder {
	return &Recorder{began: time.Now(), out: bufio.NewWriter(out)}
}

// Now is the time of the recording.
func (r *Recorder) Now() time.Duration { return time.Since(r.began) }

// Episode begins an episode, and lets go of the events before it but for what still stands.
func (r *Recorder) Episode(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.episode, r.events = n, Standing(r.events)
}

// Standing gives what of the events still stands after them, in order: the last truth of each
// service, what each observer showed and said last, the last value of each key at each reader, and
// how each process was when it was looked at first.
func Standing(events []Event) []Event {
	for i := len(events) - 1; i >= 0; i-- {
		if p := events[i].Phase; p != nil && p.Name == World {
			events = events[i+1:]
			break
		}
	}
	last := make(map[string]int)
	for i, e := range events {
		key, first := e.key()
		if _, seen := last[key]; key != "" && !(seen && first) {
			last[key] = i
		}
	}
	var out []Event
	for i, e := range events {
		if key, _ := e.key(); key != "" && last[key] == i {
			out = append(out, e)
		}
	}
	return out
}

// key names what an event says something of that stands until another of the same key, or, with
// first, for good; "" for one that is over when it has happened.
func (e Event) key() (key string, first bool) {
	switch {
	case e.Truth != nil:
		return join("truth", e.Truth.Cluster, e.Truth.Service), false
	case e.View != nil:
		return join("view", e.View.Who, e.View.Cluster, e.View.Service), false
	case e.Entry != nil:
		return join("entry", e.Entry.Who, e.Entry.Key), false
	case e.Cluster != nil:
		return join("cluster", e.Cluster.Who, e.Cluster.Name), false
	case e.Process != nil:
		return join("process", e.Process.Name), true
	}
	return "", false
}

func join(parts ...string) string { return strings.Join(parts, "\x00") }

// Add writes an event down, with the time and the episode of now.
func (r *Recorder) Add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At, e.Episode = r.Now(), r.episode
	r.events = append(r.events, e)
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.out.Write(append(line, '\n'))
	}
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("history: write: %w", err)
	}
}

// Events gives the running episode's events so far. They must not be changed.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)]
}

// Flush writes out what is buffered and gives the first error of the recording.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out.Flush(); r.err == nil && err != nil {
		r.err = fmt.Errorf("history: write: %w", err)
	}
	return r.err
}

// Read reads a history back. Its error says which event cannot be read; those before it are given.
func Read(in io.Reader) ([]Event, error) {
	var out []Event
	d := json.NewDecoder(in)
	d.DisallowUnknownFields()
	for {
		var e Event
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err == nil && e.parts() != 1 {
			err = fmt.Errorf("it has %d parts instead of one", e.parts())
		}
		if err != nil {
			return out, fmt.Errorf("history: event %d: %w", len(out)+1, err)
		}
		out = append(out, e)
	}
}

// Episodes takes a whole history apart: for each episode but 0, what stood before it and its own
// events, as Recorder.Events gave them at its end.
func Episodes(events []Event) [][]Event {
	var out [][]Event
	var now []Event
	for i, e := range events {
		if i > 0 && e.Episode != events[i-1].Episode {
			if events[i-1].Episode > 0 {
				out = append(out, now)
			}
			now = Standing(now)
		}
		now = append(now, e)
	}
	if len(now) > 0 && now[len(now)-1].Episode > 0 {
		out = append(out, now)
	}
	return out
}

// parts counts what an event says.
func (e Event) parts() int {
	n := 0
	for _, set := range []bool{
		e.Truth != nil, e.Fault != nil, e.View != nil, e.Entry != nil, e.Cluster != nil,
		e.Call != nil, e.Run != nil, e.Process != nil, e.Phase != nil,
	} {
		if set {
			n++
		}
	}
	return n
}
