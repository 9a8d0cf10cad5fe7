package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/farcall/farcall/internal/datadir"
)

// What the store keeps in its data directory.
const (
	epochsFile = "epochs.json"
	etcdFolder = "etcd" // the embedded server's
)

// epochs remembers the highest epoch that was used for each cluster, so that a lost store does
// not make it fall back. The zero value remembers until the process ends.
type epochs struct {
	mu   sync.Mutex
	path string // empty: nowhere
	used map[string]uint64
}

// loadEpochs reads what the directory remembers. A file that cannot be understood is set
// aside and said so: the store, and the agents, know the epochs too.
func loadEpochs(dir *datadir.Dir, log *slog.Logger) (*epochs, error) {
	e := &epochs{path: dir.File(epochsFile)}
	b, err := os.ReadFile(e.path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	if err := json.Unmarshal(b, &e.used); err != nil {
		e.used = nil
		aside := e.path + ".unreadable"
		log.Warn("epochs file cannot be read and is set aside", "file", aside, "error", err)
		if err := os.Rename(e.path, aside); err != nil {
			return nil, fmt.Errorf("set epochs aside: %w", err)
		}
	}
	return e, nil
}

// of gives the highest epoch that was used for a cluster, 0 for none.
func (e *epochs) of(cluster string) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used[cluster]
}

// remember notes an epoch, on disk before it returns. It must be called before the epoch's
// first use.
func (e *epochs) remember(cluster string, epoch uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.used[cluster] >= epoch {
		return nil
	}
	next := map[string]uint64{cluster: epoch}
	for c, v := range e.used {
		if c != cluster {
			next[c] = v
		}
	}
	if e.path != "" {
		b, err := json.MarshalIndent(next, "", "  ")
		if err != nil {
			return fmt.Errorf("remember epoch: %w", err)
		}
		if err := datadir.WriteFile(e.path, append(b, '\n')); err != nil {
			return fmt.Errorf("remember epoch: %w", err)
		}
	}
	e.used = next
	return nil
}
