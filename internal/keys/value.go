package keys

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
)

// MaxValueBytes bounds a value before compression. It is well above what a writer makes of one
// slice, and low enough that no value can exhaust a reader.
const MaxValueBytes = 4 << 20

// The first byte of a value says how the rest is written.
const (
	formatPlain = 1 // deterministic protobuf
	formatZstd  = 2 // the same, as one zstd frame (RFC 8878)
)

// compressFrom is the size in bytes below which compression is not tried: the frame's own
// header and checksum eat most of the gain.
const compressFrom = 256

var (
	// ErrFormat is the error for a value whose first byte this version does not know, or that
	// has none. A newer version may have written it.
	ErrFormat = errors.New("unknown value format")
	// ErrTooLarge is the error for a value above MaxValueBytes before compression.
	ErrTooLarge = errors.New("value is too large")
	// ErrCorrupt is the error for a value that is not what its first byte promises.
	ErrCorrupt = errors.New("value is corrupt")
)

// encoder and decoder are made at first use. Both are safe for concurrent use in the
// one-call form used here, in which they start no goroutines.
var (
	encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault),
			zstd.WithWindowSize(MaxValueBytes), zstd.WithEncoderConcurrency(1))
	})
	decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxValueBytes), zstd.WithDecoderMaxWindow(MaxValueBytes))
	})
)

// Encode gives the value of a message. The same message gives the same bytes: map keys are
// sorted, and compression, tried from compressFrom bytes on, is kept where it saves an eighth.
// It fails on text that is not UTF-8 and, with ErrTooLarge, above MaxValueBytes. It is safe for
// concurrent use.
func Encode(m proto.Message) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{formatPlain}, m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name(m), err)
	}
	body := raw[1:]
	if len(body) > MaxValueBytes {
		return nil, fmt.Errorf("encode %s: %w: %d bytes of at most %d", name(m), ErrTooLarge, len(body), MaxValueBytes)
	}
	if len(body) < compressFrom {
		return raw, nil
	}
	enc, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name(m), err)
	}
	small := enc.EncodeAll(body, []byte{formatZstd})
	if len(small) > len(raw)-len(raw)/8 {
		return raw, nil
	}
	return small, nil
}

// Decode reads what Encode wrote into m, which is reset first and undefined after an error.
// Fields that m's type does not know are kept in it, and written again by Encode. Its errors
// are ErrFormat, ErrTooLarge and ErrCorrupt. It is safe for concurrent use; raw is not kept.
func Decode(raw []byte, m proto.Message) error {
	if len(raw) == 0 {
		return fmt.Errorf("decode %s: %w: empty", name(m), ErrFormat)
	}
	body := raw[1:]
	switch raw[0] {
	case formatPlain:
		if len(body) > MaxValueBytes {
			return fmt.Errorf("decode %s: %w: %d bytes of at most %d", name(m), ErrTooLarge, len(body), MaxValueBytes)
		}
	case formatZstd:
		dec, err := decoder()
		if err != nil {
			return fmt.Errorf("decode %s: %w", name(m), err)
		}
		body, err = dec.DecodeAll(body, nil)
		switch {
		case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
			return fmt.Errorf("decode %s: %w: more than %d bytes", name(m), ErrTooLarge, MaxValueBytes)
		case err != nil:
			return fmt.Errorf("decode %s: %w: %w", name(m), ErrCorrupt, err)
		}
	default:
		return fmt.Errorf("decode %s: %w: %d", name(m), ErrFormat, raw[0])
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("decode %s: %w: %w", name(m), ErrCorrupt, err)
	}
	return nil
}

func name(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }
