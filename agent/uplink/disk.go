package uplink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/keys"
)

// The file is magic, the SHA-256 of what follows, and a SavedView. A file that does not add up is as
// good as none.
const (
	magic      = "farcall-view-2\n"
	headerSize = len(magic) + sha256.Size
	saveEvery  = time.Second
	// saveAnyway is how often the view is saved where nothing changed but the ages.
	saveAnyway = 10 * time.Minute
	// maxAway bounds the time that a view is taken to have lain on the disk: a clock that is wrong must
	// not make clusters so old that nobody calls them any more.
	maxAway = 12 * time.Hour
)

// encodeView and decodeView are each other's inverse.
func encodeView(v *feedv1.SavedView) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, headerSize+len(body))
	b = append(b, magic...)
	sum := sha256.Sum256(body)
	b = append(b, sum[:]...)
	return append(b, body...), nil
}

func decodeView(b []byte) (*feedv1.SavedView, error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return nil, errors.New("not a saved view of this version")
	}
	sum, body := b[len(magic):headerSize], b[headerSize:]
	if have := sha256.Sum256(body); !bytes.Equal(have[:], sum) {
		return nil, errors.New("checksum does not match: the file is truncated or damaged")
	}
	v := &feedv1.SavedView{}
	if err := proto.Unmarshal(body, v); err != nil {
		return nil, err
	}
	return v, nil
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
	var saved *feedv1.SavedView
	if err == nil {
		saved, err = decodeView(b)
	}
	if err == nil {
		err = u.own(saved)
	}
	if err == nil {
		err = u.join(saved.GetView().GetFederation())
	}
	if err != nil {
		u.metrics.badViews.Inc()
		u.log.Warn("the saved view is not used", "file", u.cfg.File, "error", err)
		return
	}
	u.saves = saved.GetGeneration()
	m, v := u.mirror.Load(), saved.GetView()
	away := min(max(time.Since(saved.GetSaved().AsTime()), 0), maxAway)
	if saved.GetReads() != keys.Reads() {
		// It may lack what the version that saved it did not know: nobody would send that again.
		u.anew = true
		u.handed.Store(true)
	}
	m.Begin(v.GetStoreId())
	// What was fresh when it was saved is as much older now.
	u.listener.Changed(m.Apply(time.Now().Add(-away), v.GetEntries(), v.GetRevision()))
	u.listener.Changed(m.End(v.GetRevision()))
	u.log.Info("starts with the saved view", "file", u.cfg.File, "rev", v.GetRevision(), "entries", len(v.GetEntries()),
		"generation", u.saves, "of_another_version", u.anew, "saved_before", away.Round(time.Second))
}

// own checks that a saved view is this agent's: one that was copied from another node may be of
// another federation.
func (u *Uplink) own(v *feedv1.SavedView) error {
	if a := u.cfg.Agent; v.GetCluster() != a.GetCluster() || v.GetNode() != a.GetNode() {
		return fmt.Errorf("it is of node %q of cluster %q", v.GetNode(), v.GetCluster())
	}
	if v.GetView() == nil || v.GetSaved().CheckValid() != nil {
		return errors.New("it is not whole")
	}
	return nil
}

// keepSaved writes the view after changes, at most once in saveEvery, now and then without any, and
// when ctx is done.
func (u *Uplink) keepSaved(ctx context.Context) error {
	save := func() {
		if err := u.save(); err != nil {
			u.metrics.saveErrors.Inc()
			u.log.Warn("the view could not be saved", "file", u.cfg.File, "error", err)
		}
	}
	anyway := time.NewTicker(saveAnyway)
	defer anyway.Stop()
	for {
		select {
		case <-ctx.Done():
			save()
			return ctx.Err()
		case <-u.dirty:
		case <-anyway.C:
		}
		save()
		pause(ctx, saveEvery)
	}
}

// save replaces the file in one step: whoever is interrupted leaves the old one.
func (u *Uplink) save() error {
	m := u.mirror.Load()
	if m == nil {
		return nil // there is nothing yet, and an old file is better than none
	}
	reads := keys.Reads()
	if u.handed.Load() { // asked before: what comes meanwhile may not be in what is saved
		reads = ""
	}
	id, rev, entries, err := m.Save(time.Now())
	if err != nil {
		return fmt.Errorf("save view: %w", err)
	}
	u.saves++
	b, err := encodeView(&feedv1.SavedView{
		Reads:      reads,
		Generation: u.saves, Saved: timestamppb.Now(), Cluster: u.cfg.Agent.GetCluster(), Node: u.cfg.Agent.GetNode(),
		View: &feedv1.WatchResponse{StoreId: id, Revision: rev, Entries: entries, Federation: *u.federation.Load()},
	})
	if err != nil {
		return fmt.Errorf("save view: %w", err)
	}
	return datadir.WriteFile(u.cfg.File, b)
}
