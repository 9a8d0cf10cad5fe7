package guard

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// between is what happens between two reads that bring anything: what is one of five things, and n
// says how.
func (m *model) between(what, n int) error {
	switch what % 8 {
	case 0, 1:
		return m.expire(time.Duration(n%8) * time.Second)
	case 2:
		return m.release(func(id catalog.ID) bool { return n&(1<<(id.Instance[0]-'0')) != 0 })
	case 3:
		m.guard.Interrupt()
		m.mirror.Interrupt()
		m.steady, m.fresh = nil, false
		return nil
	case 4:
		return m.review(func(id catalog.ID) Word { return Word((n >> (id.Instance[0] - '0') % 3) % 3) })
	}
	m.now = m.now.Add(time.Duration(n%8) * time.Second)
	return m.confirm()
}

// disturb notes what an Update did to the row of reads that confirm.
func (m *model) disturb(u catalog.Update, before map[catalog.ID]*catalog.Instance, heldBefore map[catalog.ID]bool) {
	held, stated := m.held(), m.stated()
	for id := range before {
		lost := stated[id] == nil && !heldBefore[id]
		explicit := lost && u.Explicit && !held[id]
		if lost && !explicit || heldBefore[id] && stated[id] != nil {
			m.steady, m.fresh = nil, true
		}
	}
	maps.DeleteFunc(m.doubt, func(id catalog.ID, _ bool) bool { return !held[id] || stated[id] != nil })
	maps.DeleteFunc(m.listed, func(id catalog.ID, _ time.Time) bool { return !held[id] })
	for _, h := range m.guard.Holds() {
		if u.Reset != "" || h.Reason != Burst {
			m.doubt[h.ID] = true
		}
		if !heldBefore[h.ID] {
			delete(m.listed, h.ID)
		}
	}
}

// confirm checks a Confirm against the rule, written down once more.
func (m *model) confirm() error {
	listsBefore, before := lists(m.guard)
	held, stated := m.held(), m.stated()
	doubted := slices.ContainsFunc(slices.Collect(maps.Keys(held)), func(id catalog.ID) bool { return m.doubt[id] })
	if m.fresh || len(held) == 0 || doubted {
		m.steady = nil
	} else {
		m.steady = append(m.steady, m.now)
	}
	m.fresh = false
	enough := len(m.steady) >= 3 && m.now.Sub(m.steady[0]) >= m.cfg.Hold/2 && len(held) <= len(stated)
	changed := m.guard.Confirm(m.now)
	m.mirror.Confirm(m.now)
	_, after := lists(m.guard)
	for id := range before {
		others := 0
		for other := range stated {
			if other.Name == id.Name {
				others++
			}
		}
		goes := enough && held[id] && others > 0 && (m.words == nil || m.listed[id].IsZero() || m.words(id) != Listed)
		if goes != (after[id] == nil) {
			return fmt.Errorf("%w: %s, to go %t, gone %t after reads at %v", errBrokeConfirm, id, goes, after[id] == nil, m.steady)
		}
	}
	return errors.Join(m.checkChanged(listsBefore, changed), m.checkState())
}

func (m *model) release(of func(catalog.ID) bool) error {
	listsBefore, before := lists(m.guard)
	held := m.held()
	told := of
	if m.releases != nil {
		told = m.releases
	}
	released, changed := m.guard.Release(told)
	m.mirror.Release(told)
	_, after := lists(m.guard)
	said := map[catalog.ID]bool{}
	for _, h := range released {
		said[h.ID] = true
	}
	for id := range before {
		if goes := held[id] && of(id); goes != (after[id] == nil) || goes != said[id] {
			return fmt.Errorf("%w: %s, to go %t, gone %t, told %t", errBrokeRelease, id, goes, after[id] == nil, said[id])
		}
	}
	return errors.Join(m.checkChanged(listsBefore, changed), m.checkState())
}

func (m *model) review(word func(catalog.ID) Word) error {
	listsBefore, before := lists(m.guard)
	held := m.held()
	m.words = word
	changed := m.guard.Review(m.now, word)
	m.mirror.Review(m.now, word)
	_, after := lists(m.guard)
	for id := range before {
		_, was := m.listed[id]
		if goes := held[id] && word(id) == Unlisted && was; goes != (after[id] == nil) {
			return fmt.Errorf("%w: %s, to go %t, gone %t", errBrokeFollow, id, goes, after[id] == nil)
		}
		if held[id] && word(id) == Listed {
			m.listed[id] = m.now
		}
	}
	for _, h := range m.guard.Holds() {
		if word(h.ID) == Listed && h.Until.Sub(m.now) < m.cfg.Hold/2 {
			return fmt.Errorf("%w: %s is held until %v only", errBrokeFollow, h.ID, h.Until)
		}
	}
	return errors.Join(m.checkChanged(listsBefore, changed), m.checkState())
}

// playCalm reads a history in which most reads bring nothing new, so that holds live to see every
// end they can have: any bytes make one.
func (m *model) playCalm(data []byte) error {
	bits := 255
	state := func(full bool, reset string) error {
		return m.apply(catalog.Update{Full: full, Reset: reset, Snapshots: []catalog.Snapshot{randomSnapshot("0", bits, 0)}})
	}
	if err := state(true, ""); err != nil {
		return err
	}
	for len(data) > 1 {
		what, n := int(data[0])%32, int(data[1])
		data = data[2:]
		var err error
		switch {
		case what < 16:
			err = m.between(5, n)
		case what < 20: // a review in which most is listed still
			err = m.review(func(id catalog.ID) Word {
				if n&(1<<(id.Instance[0]-'0')) != 0 && n%2 == 0 {
					return Unlisted
				}
				return Word(n / 4 % 2)
			})
		case what < 23:
			bits |= n
			err = state(false, "")
		case what < 28: // two or so are lost
			bits &^= n & (n >> 3)
			err = state(false, "")
		case what == 28 && n%4 == 0:
			err = state(true, "younger")
		default:
			err = m.between(what%4, n)
		}
		if err != nil {
			return err
		}
	}
	return m.finish()
}

func FuzzEndsOfHolds(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	var seen Removals
	for range 150 {
		history := make([]byte, 200)
		for i := range history {
			history[i] = byte(r.Uint32())
		}
		f.Add(history)
		m := newModel()
		if err := m.playCalm(history); err != nil {
			f.Error(err)
		}
		now := m.guard.Removals()
		seen.Returned += now.Returned
		seen.Expired += now.Expired
		seen.Released += now.Released
		seen.Confirmed += now.Confirmed
		seen.Followed += now.Followed
	}
	if min(seen.Returned, seen.Expired, seen.Released, seen.Confirmed, seen.Followed) < 10 {
		f.Errorf("some ends were hardly seen: %+v", seen)
	}
	f.Fuzz(func(t *testing.T, history []byte) {
		if err := newModel().playCalm(history[:min(len(history), 2000)]); err != nil {
			t.Error(err)
		}
	})
}

// The model must be able to fail here, too.
func TestTheModelSeesABrokenEnd(t *testing.T) {
	all := randomSnapshot("0", 255, 0)
	begin := func(m *model, left int) {
		_ = m.apply(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{all}})
		_ = m.apply(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{randomSnapshot("0", left, 0)}})
	}
	steadily := func(m *model) (err error) {
		for range 5 {
			err = errors.Join(err, m.confirm())
			m.now = m.now.Add(4 * time.Second)
		}
		return err
	}
	for _, tt := range []struct {
		name   string
		breaks func(*model) error
		want   error
	}{
		{"it confirms too early", func(m *model) error {
			begin(m, 31)
			m.guard.cfg.Hold = time.Second
			return steadily(m)
		}, errBrokeConfirm},
		{"it confirms after a reset", func(m *model) error {
			begin(m, 31)
			m.doubt[m.guard.Holds()[0].ID] = true
			return steadily(m)
		}, errBrokeConfirm},
		{"it confirms nothing", func(m *model) error {
			begin(m, 31)
			m.guard.doubt()
			return steadily(m)
		}, errBrokeConfirm},
		{"it forgets to break the row", func(m *model) error {
			begin(m, 31)
			m.guard.row = row{reads: 9, first: m.now.Add(-time.Hour)}
			return m.confirm()
		}, errBrokeConfirm},
		{"it releases too much", func(m *model) error {
			begin(m, 1)
			m.releases = func(catalog.ID) bool { return true }
			return m.release(func(id catalog.ID) bool { return id.Name == name("cart") })
		}, errBrokeRelease},
		{"it releases nothing", func(m *model) error {
			begin(m, 1)
			m.releases = func(catalog.ID) bool { return false }
			return m.release(func(catalog.ID) bool { return true })
		}, errBrokeRelease},
		{"it lets go what is listed", func(m *model) error {
			begin(m, 31)
			m.now = m.now.Add(15 * time.Second)
			m.guard.cfg.Hold, m.mirror.cfg.Hold = time.Second, time.Second
			return m.review(func(catalog.ID) Word { return Listed })
		}, errBrokeFollow},
		{"it keeps what is listed no more", func(m *model) error {
			begin(m, 31)
			m.listed[m.guard.Holds()[0].ID] = m.now
			return m.review(func(catalog.ID) Word { return Unlisted })
		}, errBrokeFollow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.breaks(newModel()); !errors.Is(err, tt.want) {
				t.Errorf("the model says %v, want %v", err, tt.want)
			}
		})
	}
}
