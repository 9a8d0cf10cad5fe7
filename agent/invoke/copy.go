package invoke

import (
	"io"
	"sync"
)

// chunk is how much is read at once from a body that streams.
const chunk = 32 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Copy writes a body to w as it arrives, in one Write per piece. Bodies that know how to
// (io.WriterTo) are written without a buffer in between.
func Copy(w io.Writer, body io.Reader) (int64, error) {
	if wt, ok := body.(io.WriterTo); ok {
		return wt.WriteTo(w)
	}
	buf := chunks.Get().(*[chunk]byte)
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
