package datadir

import (
	"bytes"
	"crypto/sha256"
	"errors"
)

// Seal gives a file's contents that Unseal takes: a first line that says what it is, a checksum, and
// the body.
func Seal(what string, body []byte) []byte {
	sum := sha256.Sum256(body)
	b := make([]byte, 0, len(what)+1+len(sum)+len(body))
	b = append(b, what...)
	b = append(b, '\n')
	b = append(b, sum[:]...)
	return append(b, body...)
}

// Unseal gives the body of what Seal made, or says why it cannot be used: it is something else, or not
// all of it is there as it was.
func Unseal(what string, b []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(b, []byte(what+"\n"))
	if !ok {
		return nil, errors.New("it is not of this version's making")
	}
	if len(rest) < sha256.Size {
		return nil, errors.New("it is truncated")
	}
	sum, body := rest[:sha256.Size], rest[sha256.Size:]
	if have := sha256.Sum256(body); !bytes.Equal(have[:], sum) {
		return nil, errors.New("its checksum does not match: it is truncated or damaged")
	}
	return body, nil
}
