//go:build real && unix

package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

// TestRealDocuments runs the documents that have something to say of etcd, with etcd's own programs.
func TestRealDocuments(t *testing.T) {
	root := testkit.Root(t)
	docs, err := documents(root)
	if err != nil {
		t.Fatal(err)
	}
	tools := buildTools(t)
	for _, name := range []string{"etcd", "etcdctl", "etcdutl"} {
		program := filepath.Join(root, "test", "servers", "bin", name)
		if _, err := os.Stat(program); err != nil {
			t.Fatalf("%v: run make servers", err)
		}
		if err := os.Symlink(program, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	ran := 0
	for _, doc := range docs {
		text, err := os.ReadFile(filepath.Join(root, doc))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "```sh needs=\"etcd\"") {
			continue
		}
		ran++
		t.Run(doc, func(t *testing.T) { runFile(t, root, tools, doc, "etcd") })
	}
	if ran == 0 {
		t.Error("no document needs etcd: nothing was run")
	}
}
