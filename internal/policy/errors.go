package policy

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/farcall/farcall/internal/nearest"
)

// ErrNewer says that a policy or a cordon is not understood and must not be followed in part: a
// newer version may have written it. What was understood last of it holds on.
var ErrNewer = errors.New("is not understood by this version")

// FieldError is one mistake.
type FieldError struct {
	// Path is the key as in YAML, for example externalOrder[0][1]; empty for the whole.
	Path string
	// Text says what is wrong and what is accepted.
	Text string
}

// Error gives "path: text".
func (e FieldError) Error() string {
	if e.Path == "" {
		return e.Text
	}
	return e.Path + ": " + e.Text
}

// Errors are all mistakes of one policy or cordon, at least one.
type Errors []FieldError

// Error joins them.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, f := range e {
		texts[i] = f.Error()
	}
	return strings.Join(texts, "; ")
}

// reader collects the mistakes of one message.
type reader struct {
	errs Errors
	// unknown says that the message holds more than this version knows.
	unknown bool
}

func (r *reader) addf(path, format string, args ...any) {
	r.errs = append(r.errs, FieldError{Path: path, Text: fmt.Sprintf(format, args...)})
}

// err gives the mistakes as an error, or a nil that is one.
func (r *reader) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	return r.errs
}

// newer notes fields that this version does not know, anywhere in a message. To ignore them would
// be to follow a part of what somebody meant.
func (r *reader) newer(path string, m protoreflect.Message) {
	if len(m.GetUnknown()) > 0 {
		r.unknown = true
		r.addf(path, "holds a field that this version does not know: a newer one wrote it")
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Kind() != protoreflect.MessageKind || f.IsMap() {
			return true
		}
		at := join(path, f.JSONName())
		if !f.IsList() {
			r.newer(at, v.Message())
			return true
		}
		for i := range v.List().Len() {
			r.newer(fmt.Sprintf("%s[%d]", at, i), v.List().Get(i).Message())
		}
		return true
	})
}

// join gives the path of a key as YAML has it, which has no words for the blocks that only the
// message needs.
func join(path, key string) string {
	switch {
	case key == "settings" || key == "target" || key == "pools":
		return path
	case key == "staleTtl":
		key = "staleTTL"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// oneOf reads one of some words, spelt exactly.
func oneOf[T ~string](r *reader, path, s string, words []T) T {
	texts := make([]string, len(words))
	for i, w := range words {
		if s == string(w) {
			return w
		}
		texts[i] = string(w)
	}
	switch near, ok := nearest.Word(s, texts); {
	case s == "":
		r.addf(path, "is empty: want %s", nearest.Either(texts))
	case ok:
		r.addf(path, "unknown word %s: want %s; did you mean %q?", quote(s), nearest.Either(texts), near)
	default:
		r.addf(path, "unknown word %s: want %s", quote(s), nearest.Either(texts))
	}
	return ""
}

// quote quotes what a stranger wrote, cut where it is longer than any word that could be right.
func quote(s string) string {
	const limit = 63
	if len(s) > limit {
		return fmt.Sprintf("%q...", s[:limit])
	}
	return fmt.Sprintf("%q", s)
}
