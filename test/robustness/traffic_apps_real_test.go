//go:build real && linux

package robustness

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// application is one instance's. It listens as long as the test, also while no registry lists it: a
// call that comes late is executed, and written down, before it is answered.
type application struct {
	inst
	t       testing.TB
	rec     *history.Recorder
	cluster string
	server  *http.Server
	served  chan struct{}

	// mood is what it does wrong.
	mood atomic.Pointer[mood]
	// bad counts the calls that it treated wrongly.
	bad atomic.Int64
}

// mood is what an application does wrong.
type mood struct {
	fail func() bool   // answers with an error
	slow time.Duration // before it answers
}

// failedHeader tells an application's own errors from Farcall's.
const failedHeader = "X-Application-Failed"

// newApplication starts the application of an instance, whose id must be new.
func (w *world) newApplication(cluster, service, id, node string) *application {
	w.t.Helper()
	l, err := net.Listen("tcp", loopback(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	a := &application{inst: inst{service: service, id: id, node: node, port: port}, t: w.t, rec: w.rec, cluster: cluster}
	if w.apps == nil {
		w.apps = map[string]*application{}
	}
	w.apps[id] = a
	a.serve(l)
	w.t.Cleanup(a.stop)
	return a
}

func (a *application) serve(l net.Listener) {
	server, served := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}, make(chan struct{})
	a.server, a.served = server, served
	go func() {
		defer close(served)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.t.Error(err)
		}
	}()
}

// stop ends it as a crash does.
func (a *application) stop() {
	a.server.Close()
	<-a.served
}

// ServeHTTP executes a call. Its id is in the query; a call without one is only a look.
func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return // it did not come as a whole, and is not executed
	}
	if id := r.URL.Query().Get("id"); id != "" {
		a.rec.Add(history.Event{Run: &history.Run{ID: id, Cluster: a.cluster, Service: a.service, Instance: a.id}})
	}
	if m := a.mood.Load(); m != nil {
		if m.slow > 0 {
			a.bad.Add(1)
			timer := time.NewTimer(m.slow)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return
			}
		}
		if m.fail != nil && m.fail() {
			a.bad.Add(1)
			w.Header().Set(failedHeader, a.id)
			http.Error(w, "it does not work here", http.StatusInternalServerError)
			return
		}
	}
	_, _ = io.WriteString(w, a.id) // who asked may be gone
}
