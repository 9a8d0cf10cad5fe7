// Package datadir opens a daemon's data directory: it is made where missing, locked against a
// second process, and bound to who uses it, so that nobody starts from another's state.
//
// It knows nothing of the files that the daemon keeps there.
package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

const (
	lockFile    = "lock"
	bindingFile = "belongs-to.json"
)

// Dir is an open data directory. Close gives it free.
type Dir struct {
	path string
	lock *os.File
}

// Open makes, locks and binds the directory at path. binding says who uses it, in words that
// stand in the error when it belongs to somebody else (for example "cluster": "east").
func Open(path string, binding map[string]string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &Dir{path: path, lock: lock}
	// The lock goes with the process, however it ends.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another process: give each its own dataDir", path)
		}
		return nil, fmt.Errorf("data directory %s: lock: %w", path, err)
	}
	if err := d.bind(binding); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Dir) bind(want map[string]string) error {
	file := d.File(bindingFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		b, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		return WriteFile(file, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var have map[string]string
	if err := json.Unmarshal(b, &have); err != nil {
		return fmt.Errorf("data directory %s: %s: %w", d.path, bindingFile, err)
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if have[k] != want[k] {
			return fmt.Errorf("data directory %s belongs to %s %q, not %q: use another dataDir, or remove it to start over", d.path, k, have[k], want[k])
		}
	}
	return nil
}

// File returns the path of a file in the directory.
func (d *Dir) File(name string) string { return filepath.Join(d.path, name) }

// Close gives the directory free for another process.
func (d *Dir) Close() error { return d.lock.Close() }

// WriteFile replaces a file in one step: whoever is interrupted leaves the old one.
func WriteFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already where all went well
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
