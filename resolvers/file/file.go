// Package file is the resolver of a registry that is a YAML file, for clusters that have no
// other and for people who want to see what happens.
//
// It looks at the file ten times a second and reads it once two looks agree on its size, its
// modification time and which file it is; so it follows writes in place, renames over it and
// symbolic links that are swapped. A file that cannot be understood is a bad edit: it is told
// as a failure with its line, and the last good list stays. An edit is an explicit removal of
// what it leaves out.
//
// It is not a validator of instances: a record that is well formed but cannot be used (port
// 70000) is passed on for its reader to set aside. It runs no goroutines. Two edits in place
// within the file system's tick of time (milliseconds on most, up to 2 s on some) that leave
// the size as it was may look like one: there, rename a new file over the old one.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/poll"
)

const (
	// lookEvery is the time between two looks. An edit is read at the second look after it, so
	// within 200 ms; it must be in every agent's picks within a second.
	lookEvery = 100 * time.Millisecond
	// maxBytes is the largest file that is read.
	maxBytes = 64 << 20
)

// Config says which file.
type Config struct {
	// Path is the file, or a symbolic link to it. It need not exist yet.
	Path string
}

// Deps is what a Resolver needs of its process.
type Deps struct {
	Log *slog.Logger
}

// Resolver reads one file.
type Resolver struct {
	path string
	log  *slog.Logger
	poll *poll.Poll

	// seen is the file at the last look, nil where there was none.
	seen os.FileInfo
	// read is the file that was read last, nil where seen must be read anew; err is what was
	// wrong with it.
	read os.FileInfo
	err  error
}

var _ resolvers.Resolver = (*Resolver)(nil)

// New returns a resolver of the file at cfg.Path. It starts nothing and does not look at the
// file.
func New(cfg Config, deps Deps) (*Resolver, error) {
	if cfg.Path == "" {
		return nil, errors.New("file: path is empty")
	}
	r := &Resolver{path: cfg.Path, log: deps.Log.With("registry", "file", "path", cfg.Path)}
	r.poll = poll.New(poll.Config{Every: lookEvery}, r.look)
	return r, nil
}

// Run looks at the file until ctx is done and returns ctx.Err().
func (r *Resolver) Run(ctx context.Context, out resolvers.Sink) error { return r.poll.Run(ctx, out) }

// look is one look at the file. What it waits for is a local disk, for which a context is of
// no use.
func (r *Resolver) look(context.Context) (catalog.Update, bool, error) {
	before := r.seen
	now, err := os.Stat(r.path)
	r.seen = now
	switch {
	case err != nil:
		r.seen, r.read = nil, nil
		return catalog.Update{}, false, fmt.Errorf("file: %w", err)
	case !now.Mode().IsRegular(): // to open a pipe would block
		r.read = nil
		return catalog.Update{}, false, fmt.Errorf("file: %s is not a regular file", r.path)
	case same(r.read, now):
		return catalog.Update{}, false, r.err
	case !same(before, now):
		return catalog.Update{}, false, poll.ErrUnsettled
	}
	data, err := r.load(now)
	if err != nil {
		return catalog.Update{}, false, err
	}
	r.read = now
	var u catalog.Update
	u, r.err = r.update(data, now)
	return u, r.err == nil, r.err
}

// same reports whether two looks saw the same content, as far as can be told without reading.
func same(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// load reads the file that was seen, and no other that took its place meanwhile.
func (r *Resolver) load(seen os.FileInfo) ([]byte, error) {
	if seen.Size() > maxBytes {
		return nil, fmt.Errorf("file: %s has %d bytes, more than %d are not read", r.path, seen.Size(), maxBytes)
	}
	f, err := os.Open(r.path)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	after, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	if !same(seen, after) || int64(len(data)) != seen.Size() {
		return nil, poll.ErrUnsettled
	}
	return data, nil
}

// update makes an Update of the file's content.
func (r *Resolver) update(data []byte, info os.FileInfo) (catalog.Update, error) {
	snapshots, err := decode(r.path, data)
	if err != nil {
		return catalog.Update{}, fmt.Errorf("file: %w", err)
	}
	revision := info.ModTime().UTC().Format(time.RFC3339Nano)
	r.log.Debug("file is read", "services", len(snapshots), "revision", revision)
	return catalog.Update{Full: true, Explicit: true, Snapshots: snapshots, Revision: revision}, nil
}
