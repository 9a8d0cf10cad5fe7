package invoke

import (
	"io"
	"sync"
)

// ChunkSize is how much is read at once from a body that streams. As a message of Dapr's wire it
// still fits into one of gRPC's buffers of 32 KiB; the next larger ones are of 1 MiB.
const ChunkSize = 32<<10 - 64

var chunks = sync.Pool{New: func() any { return new([ChunkSize]byte) }}

// Copy writes a body to w as it arrives, in one Write per piece. Bodies that know how to
// (io.WriterTo) are written without a buffer in between.
func Copy(w io.Writer, body io.Reader) (int64, error) {
	if wt, ok := body.(io.WriterTo); ok {
		return wt.WriteTo(w)
	}
	buf := chunks.Get().(*[ChunkSize]byte)
	defer chunks.Put(buf)
	var n int64
	for {
		k, err := body.Read(buf[:])
		if k > 0 {
			if _, err := w.Write(buf[:k]); err != nil {
				return n, err
			}
			n += int64(k)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
