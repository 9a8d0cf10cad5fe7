package docs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/file"
)

// readRegistry has the file resolver read a block of services, and gives what it says of it.
// Every record must be usable, too.
func readRegistry(dir, text string) error {
	path := filepath.Join(dir, "services.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	r, err := file.New(file.Config{Path: path}, file.Deps{Log: testkit.Quiet()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := &sink{stop: cancel}
	if err := r.Run(ctx, s); s.err == nil && !s.done {
		return errors.Join(errors.New("the resolver said nothing of it"), err)
	}
	return s.err
}

// sink takes the first thing that a resolver says and stops it.
type sink struct {
	stop context.CancelFunc
	done bool
	err  error
}

func (s *sink) Confirm() {}

func (s *sink) Failed(err error) {
	if !s.done {
		s.done, s.err = true, err
	}
	s.stop()
}

func (s *sink) Publish(u catalog.Update) {
	if !s.done {
		s.done = true
		for _, snapshot := range u.Snapshots {
			for _, i := range snapshot.Instances {
				record := *i
				if record.Namespace == "" {
					record.Namespace = catalog.DefaultNamespace
				}
				s.err = errors.Join(s.err, record.Check())
			}
		}
	}
	s.stop()
}
