//go:build real && linux

package robustness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fileRegistry is a cluster's registry in a file. Its edits are explicit; what is no list of services
// is no edit.
type fileRegistry struct {
	*book
	t    testing.TB
	path string
	more string // further services
}

var _ registry = (*fileRegistry)(nil)

func newFileRegistry(w *world, c *cluster) *fileRegistry {
	f := &fileRegistry{book: newBook(w, c.name, "explicit"), t: w.t, path: filepath.Join(w.dir, c.name+".yaml")}
	f.say = func() {
		if !f.lying {
			f.write(f.text())
		}
	}
	return f
}

func (f *fileRegistry) config() string { return "{file: {path: " + f.path + "}}" }

// text is the file that says the truth.
func (f *fileRegistry) text() string {
	var b strings.Builder
	b.WriteString("services:\n")
	service := ""
	for _, i := range f.all() {
		if i.service != service {
			service = i.service
			fmt.Fprintf(&b, "  - name: %s\n    instances:\n", service)
		}
		fmt.Fprintf(&b, "      - {id: %s, address: 127.0.0.1, port: %d, node: %s}\n", i.id, i.port, i.node)
	}
	return b.String() + f.more
}

// write replaces the file in one step.
func (f *fileRegistry) write(text string) {
	err := os.WriteFile(f.path+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(f.path+".new", f.path)
	}
	if err != nil {
		f.t.Error(err)
	}
}

// lie writes something into the file that is there, as bad editors do; what is true does not change.
func (f *fileRegistry) lie(spoil func(text string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lying = true
	if err := os.WriteFile(f.path, []byte(spoil(f.text())), 0o600); err != nil {
		f.t.Error(err)
	}
}

// vanish takes the file away.
func (f *fileRegistry) vanish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lying = true
	if err := os.Remove(f.path); err != nil {
		f.t.Error(err)
	}
}

// mend says the truth again.
func (f *fileRegistry) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lying = false
	f.write(f.text())
}

// add puts further services into the file, which are nobody's truth; "" takes them out.
func (f *fileRegistry) add(more string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.more = more
	f.say()
}
