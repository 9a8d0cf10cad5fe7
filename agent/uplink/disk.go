package uplink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/datadir"
)

// The file is magic, generation (8 bytes, big endian), SHA-256 of what follows, and one
// WatchResponse with everything. A file that does not add up is as good as none.
const (
	magic      = "farcall-view-1\n"
	headerSize = len(magic) + 8 + sha256.Size
	saveEvery  = time.Second
)

// encodeView and decodeView are each other's inverse.
func encodeView(gen uint64, v *feedv1.WatchResponse) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, headerSize+len(body))
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, gen)
	sum := sha256.Sum256(body)
	b = append(b, sum[:]...)
	return append(b, body...), nil
}

func decodeView(b []byte) (gen uint64, v *feedv1.WatchResponse, err error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return 0, nil, errors.New("not a saved view of this version")
	}
	gen = binary.BigEndian.Uint64(b[len(magic):])
	sum, body := b[len(magic)+8:headerSize], b[headerSize:]
	if have := sha256.Sum256(body); !bytes.Equal(have[:], sum) {
		return 0, nil, errors.New("checksum does not match: the file is truncated or damaged")
	}
	v = &feedv1.WatchResponse{}
	if err := proto.Unmarshal(body, v); err != nil {
		return 0, nil, err
	}
	return gen, v, nil
}

// load starts from the last view, where there is one that can be read. One that cannot is told
// of and left behind; the agent then waits for the feed like a new one.
func (u *Uplink) load() {
	if u.cfg.File == "" {
		return
	}
	b, err := os.ReadFile(u.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var v *feedv1.WatchResponse
	if err == nil {
		u.saves, v, err = decodeView(b)
	}
	if err == nil {
		err = u.join(v.GetFederation())
	}
	if err != nil {
		u.metrics.badViews.Inc()
		u.log.Warn("the saved view is not used", "file", u.cfg.File, "error", err)
		return
	}
	m := u.mirror.Load()
	m.Begin(v.GetStoreId())
	u.listener.Changed(m.Apply(time.Now(), v.GetEntries(), v.GetRevision()))
	u.listener.Changed(m.End(v.GetRevision()))
	u.log.Info("starts with the saved view", "file", u.cfg.File, "rev", v.GetRevision(), "entries", len(v.GetEntries()))
}

// keepSaved writes the view after changes, at most once in saveEvery, and when ctx is done.
func (u *Uplink) keepSaved(ctx context.Context) error {
	save := func() {
		if err := u.save(); err != nil {
			u.metrics.saveErrors.Inc()
			u.log.Warn("the view could not be saved", "file", u.cfg.File, "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			save()
			return ctx.Err()
		case <-u.dirty:
		}
		save()
		pause := time.NewTimer(saveEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// save replaces the file in one step: whoever is interrupted leaves the old one.
func (u *Uplink) save() error {
	m := u.mirror.Load()
	if m == nil {
		return nil // there is nothing yet, and an old file is better than none
	}
	id, rev, entries, err := m.Save(time.Now())
	if err != nil {
		return fmt.Errorf("save view: %w", err)
	}
	u.saves++
	b, err := encodeView(u.saves, &feedv1.WatchResponse{StoreId: id, Revision: rev, Entries: entries, Federation: *u.federation.Load()})
	if err != nil {
		return fmt.Errorf("save view: %w", err)
	}
	return datadir.WriteFile(u.cfg.File, b)
}
