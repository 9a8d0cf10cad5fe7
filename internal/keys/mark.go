package keys

import (
	"crypto/sha256"
	"encoding/binary"
)

// Mark gives a number for a key as one revision of a store left it. Sums of marks tell two copies of
// a store apart without bringing them together: within one store, a key and the revision that last
// changed it say what its value is. What a Mark is made of is part of the feed's protocol.
func Mark(key string, revision int64) uint64 {
	b := append(make([]byte, 0, 160), key...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(revision))
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}
