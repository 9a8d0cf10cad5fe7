package store

import (
	"context"
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
	epochsFile   = "epochs.json"
	policiesFile = "policies.json"
	etcdFolder   = "etcd" // the embedded server's
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
		if err := setAside(e.path, err, log); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// setAside gives a file that cannot be understood another name, and says so.
func setAside(path string, why error, log *slog.Logger) error {
	aside := path + ".unreadable"
	log.Warn("a file cannot be read and is set aside", "file", aside, "error", why)
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	return nil
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

// policyCopy is the data directory's copy of all policies and cordons, for a store that was lost
// with nobody else to tell it. The zero value keeps nothing.
type policyCopy struct {
	mu      sync.Mutex
	path    string // empty: nowhere
	entries []Entry
}

// copied is the file's content.
type copied struct {
	Entries []copiedEntry `json:"entries"`
}

type copiedEntry struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// loadPolicies reads what the directory remembers. A file that cannot be understood is set aside
// and said so: agents know the policies too.
func loadPolicies(dir *datadir.Dir, log *slog.Logger) (*policyCopy, error) {
	p := &policyCopy{path: dir.File(policiesFile)}
	b, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	var c copied
	if err := json.Unmarshal(b, &c); err != nil {
		return p, setAside(p.path, err, log)
	}
	for _, e := range c.Entries {
		p.entries = append(p.entries, Entry{Key: e.Key, Value: e.Value})
	}
	return p, nil
}

// RememberPolicies keeps a copy of all policies and cordons in the data directory, where there is
// one, in the place of the copy before. A store that has lost them by the next start is told of
// them. entries are as RestorePolicies takes them.
func (s *Store) RememberPolicies(ctx context.Context, entries []Entry) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("store: remember policies: %w", err)
	}
	defer leave()
	p := s.policies
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == "" {
		return nil
	}
	c := copied{Entries: make([]copiedEntry, 0, len(entries))}
	for _, e := range entries {
		c.Entries = append(c.Entries, copiedEntry{e.Key, e.Value})
	}
	b, err := json.Marshal(c)
	if err == nil {
		err = datadir.WriteFile(p.path, append(b, '\n'))
	}
	if err != nil {
		s.metrics.copyErrors.Inc()
		return fmt.Errorf("store: remember policies: %w", err)
	}
	return nil
}

// recall tells the store of what the data directory remembered at the start, if it has lost that.
func (s *Store) recall(ctx context.Context) error {
	if len(s.policies.entries) == 0 {
		return nil
	}
	if _, err := s.holding(s.policies.entries); err != nil {
		s.log.Warn("the data directory's copy of the policies is not used", "error", err)
		return nil
	}
	_, err := s.RestorePolicies(ctx, s.policies.entries)
	return err
}
