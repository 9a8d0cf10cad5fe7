//go:build real && linux

package robustness

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

// consul answers as Consul's HTTP API does to who reads it: lists, blocking queries, indexes. A real
// one cannot be made to lie.
type consul struct {
	*book
	t    testing.TB
	addr string

	// These are guarded by the book's mu.
	index   uint64
	server  string // id of Consul's own server
	nodes   []string
	lied    lie
	more    []entry       // further registrations, which are nobody's truth and no lie
	changed chan struct{} // closed and renewed at each change
	http    *http.Server  // nil while it is down
	serving sync.WaitGroup

	// told counts the answers that were not the truth.
	told atomic.Int64
}

var _ registry = (*consul)(nil)

// lie is what it says in place of the truth. The zero value is none.
type lie struct {
	// show gives the registrations to list in place of those that there are.
	show func([]entry) []entry
	// answer takes an answer over; false lets it be given as always.
	answer func(w http.ResponseWriter, r *http.Request) bool
	// body spoils an answer's body.
	body func(path string, b []byte) []byte
}

// entry is one registration.
type entry struct {
	Node, ID, Service, Address string
	Port                       int
	Status                     string
	Index                      uint64
	Meta                       map[string]string
}

func newConsul(w *world, c *cluster) *consul {
	w.t.Helper()
	s := &consul{
		book: newBook(w, c.name, "absence"), t: w.t, addr: loopback(w.t),
		index: 1000, server: "server-of-" + c.name, changed: make(chan struct{}),
	}
	for _, a := range c.agents {
		s.nodes = append(s.nodes, a.node)
	}
	s.say = s.move
	s.start()
	w.t.Cleanup(s.stop)
	return s
}

func (s *consul) config() string { return "{consul: {address: " + s.addr + "}}" }

// move makes everybody who waits look again. mu is held.
func (s *consul) move() {
	s.index += 1 + s.moves%3
	close(s.changed)
	s.changed = make(chan struct{})
}

// say one lie from now on, or with the zero value the truth; change may change what else there is.
func (s *consul) lie(l lie, change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lied = l
	s.lying = l.show != nil || l.answer != nil || l.body != nil
	if s.index += 2; change != nil {
		change()
	}
	s.move()
}

// add lists further registrations in place of those that it was told before.
func (s *consul) add(more []entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.more = more
	s.move()
}

// mend says the truth again.
func (s *consul) mend() { s.lie(lie{}, nil) }

// start listens, again at the same port.
func (s *consul) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l net.Listener
	// The port may be in the hands of a connection of its own that just ends.
	testkit.Eventually(s.t, testkit.Context(s.t), "Consul listens again", func() (err error) {
		l, err = net.Listen("tcp", s.addr)
		return err
	})
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	s.http, s.lying = server, false
	s.serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.t.Error(err)
		}
	})
}

// stop cuts everything off, as a crash does.
func (s *consul) stop() {
	s.mu.Lock()
	server := s.http
	s.http, s.lying = nil, true
	s.mu.Unlock()
	if server != nil {
		server.Close()
	}
	s.serving.Wait()
}

// ServeHTTP answers one query, when there is something newer than its index.
func (s *consul) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wait, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	limit, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		limit = 5 * time.Minute
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for late := false; ; {
		s.mu.Lock()
		index, told, changed := s.index, s.lied, s.changed
		body, same, known := s.body(r)
		s.mu.Unlock()
		switch {
		case told.answer != nil && told.answer(w, r):
			s.told.Add(1)
			return
		case !known:
			s.t.Errorf("Consul was asked for %.200s", r.URL)
			http.NotFound(w, r)
			return
		case index != wait || late:
			b, err := json.Marshal(body)
			if err != nil {
				s.t.Error(err)
			}
			if told.body != nil {
				spoilt := told.body(r.URL.Path, bytes.Clone(b))
				same = same && bytes.Equal(b, spoilt)
				b = spoilt
			}
			if !same {
				s.told.Add(1)
			}
			w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
			_, _ = w.Write(b) // who asked may be gone
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-r.Context().Done():
			return
		}
	}
}

// shown gives the registrations to list, and whether they are those that there are.
func (s *consul) shown() (list []entry, same bool) {
	for _, i := range s.all() {
		list = append(list, entry{i.node, i.id, i.service, "127.0.0.1", i.port, "passing", i.revision, nil})
	}
	list = append(list, s.more...)
	if s.lied.show == nil {
		return list, true
	}
	return s.lied.show(list), false
}

// nothing is what Farcall asks for when it wants the index only.
const nothing = "farcall-matches-nothing"

// body gives the answer, whether it is the truth, and whether there is such a question. mu is held.
func (s *consul) body(r *http.Request) (body any, same, known bool) {
	type object = map[string]any
	list, same := s.shown()
	path := r.URL.Path
	switch {
	case path == "/v1/catalog/services":
		names := map[string][]string{"consul": {}}
		for _, e := range list {
			names[e.Service] = []string{}
		}
		return names, same, true
	case path == "/v1/catalog/nodes" && r.URL.Query().Has("node-meta"), path == "/v1/health/checks/"+nothing:
		return []int{}, true, true
	case path == "/v1/catalog/nodes":
		out := []object{{"ID": s.server, "Node": s.server, "ModifyIndex": 1}}
		for _, n := range s.nodes {
			out = append(out, object{"ID": "id-of-" + n, "Node": n, "ModifyIndex": 1})
		}
		return out, true, true
	case path == "/v1/catalog/service/consul":
		return []object{{"ID": s.server, "Node": s.server}}, true, true
	case path == "/v1/health/state/any":
		out := []object{}
		for _, e := range list {
			out = append(out, object{"Node": e.Node, "CheckID": "check:" + e.ID, "ServiceName": e.Service, "ModifyIndex": e.Index})
		}
		return out, same, true
	}
	if node, ok := strings.CutPrefix(path, "/v1/catalog/node-services/"); ok {
		out := []object{}
		for _, e := range list {
			if e.Node == node {
				out = append(out, object{"ID": e.ID, "Service": e.Service, "ModifyIndex": e.Index})
			}
		}
		return object{"Services": out}, same, true
	}
	name, ok := strings.CutPrefix(path, "/v1/health/service/")
	out := []object{}
	for _, e := range slices.DeleteFunc(list, func(e entry) bool { return e.Service != name }) {
		out = append(out, object{
			"Node":    object{"ID": "id-of-" + e.Node, "Node": e.Node, "Address": "127.0.0.1"},
			"Service": object{"ID": e.ID, "Service": e.Service, "Address": e.Address, "Port": e.Port, "Meta": e.Meta, "CreateIndex": e.Index, "ModifyIndex": e.Index},
			"Checks":  []object{{"Node": e.Node, "CheckID": "check:" + e.ID, "ServiceID": e.ID, "ServiceName": e.Service, "Status": e.Status}},
		})
	}
	return out, same, ok
}
