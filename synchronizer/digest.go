package synchronizer

import (
	"maps"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
)

// pastSums is how many changes of a part are remembered: agents are compared at the revision that
// they report, which is seldom more than a moment old.
const pastSums = 4096

// sums keeps what stands for the hub's entries, and what did at the revisions before. A change costs
// two marks, whatever else is held. The hub locks.
type sums struct {
	schema keys.Schema
	total  uint64            // of all entries
	parts  map[string]uint64 // as mirror.Digest has them
	past   []pastSum         // oldest first
	from   int64             // the first revision that can be told
}

// pastSum is what a part was before the change that led to a revision.
type pastSum struct {
	revision int64
	part     string
	sum      uint64
}

// reset begins with a list that is complete at revision.
func (s *sums) reset(entries map[string]*feedv1.Entry, revision int64) {
	*s = sums{schema: s.schema, parts: map[string]uint64{}, from: revision}
	for _, e := range entries {
		s.add(e, 1)
	}
}

// add adds an entry so many times; it may be nil.
func (s *sums) add(e *feedv1.Entry, times uint64) {
	if e == nil || e.GetDeleted() {
		return
	}
	mark := keys.Mark(e.GetKey(), e.GetRevision()) * times
	s.total += mark
	if part, ok := s.partOf(e.GetKey()); ok {
		if s.parts[part] += mark; s.parts[part] == 0 {
			delete(s.parts, part)
		}
	}
}

func (s *sums) partOf(key string) (string, bool) {
	k, err := s.schema.Parse(key)
	if err != nil {
		return "", false
	}
	return mirror.PartOf(k)
}

// change takes the batch that leads from entries to revision, before it is put into them.
func (s *sums) change(entries map[string]*feedv1.Entry, batch []*feedv1.Entry, revision int64) {
	noted := map[string]struct{}{}
	latest := map[string]*feedv1.Entry{} // of this batch: a key may change twice in it
	for _, e := range batch {
		if part, ok := s.partOf(e.GetKey()); ok {
			if _, again := noted[part]; !again {
				noted[part] = struct{}{}
				s.past = append(s.past, pastSum{revision, part, s.parts[part]})
			}
		}
		old, twice := latest[e.GetKey()]
		if !twice {
			old = entries[e.GetKey()]
		}
		s.add(old, ^uint64(0)) // taken away: modulo 2^64 that is adding it once less than never
		s.add(e, 1)
		latest[e.GetKey()] = e
	}
	if len(s.past) < 2*pastSums {
		return
	}
	s.from = s.past[pastSums-1].revision
	s.past = append(s.past[:0], s.past[pastSums:]...)
}

// at gives the parts as they were at a revision, and whether that can be told. now is the revision
// that has been come to.
func (s *sums) at(revision, now int64) (map[string]uint64, bool) {
	if revision < s.from || revision > now {
		return nil, false
	}
	parts := maps.Clone(s.parts)
	for n := len(s.past) - 1; n >= 0 && s.past[n].revision > revision; n-- {
		if parts[s.past[n].part] = s.past[n].sum; s.past[n].sum == 0 {
			delete(parts, s.past[n].part)
		}
	}
	return parts, true
}
