package mirror

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
)

// entryList gathers entries and the first error of encoding one.
type entryList struct {
	entries []*feedv1.Entry
	err     error
}

func (l *entryList) add(key string, v proto.Message, revision int64) {
	b, err := keys.Encode(v)
	if err != nil {
		l.err = cmp.Or(l.err, err)
		return
	}
	l.entries = append(l.entries, &feedv1.Entry{Key: key, Value: b, Revision: revision})
}

// addAside adds an entry that will be refused again, so that whoever reads it knows where it stands.
func (l *entryList) addAside(key string, s stand) {
	l.entries = append(l.entries, &feedv1.Entry{Key: key, Value: []byte{0}, Revision: s.revision})
}

// sortEntries orders entries by key, so that the same mirror is saved as the same bytes.
func sortEntries(entries []*feedv1.Entry) {
	slices.SortFunc(entries, func(a, b *feedv1.Entry) int { return cmp.Compare(a.GetKey(), b.GetKey()) })
}
