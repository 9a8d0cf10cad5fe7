package datadir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestOpenLocksAndBinds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	east := map[string]string{"cluster": "east", "node": "n1"}
	d, err := Open(path, east)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, east); err == nil || !strings.Contains(err.Error(), path+" is in use") {
		t.Errorf("a second opener: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path, map[string]string{"cluster": "west", "node": "n1"})
	if err == nil || !strings.Contains(err.Error(), `belongs to cluster "east", not "west"`) {
		t.Errorf("another cluster: %v", err)
	}
	d, err = Open(path, east) // the refused one left no lock behind
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
}

func TestOpenDamagedBinding(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, bindingFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, nil); err == nil || !strings.Contains(err.Error(), bindingFile) {
		t.Errorf("got %v", err)
	}
}

func TestOpenFileInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, nil); err == nil {
		t.Error("a file was taken for a directory")
	}
}
