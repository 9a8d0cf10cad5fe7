package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"testing"

	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// errTorn is what a transport says that broke.
var errTorn = errors.New("torn")

// script is one side of a stream as a fuzzer writes it: per message two bytes, what kind it is and
// how large its payload. It is played to the reading side, and to a plain account of the rules.
type script []byte

// The kinds of messages, beside a payload with the number that is due.
const (
	kindPlain   = iota
	kindNone    // neither payload nor anything else
	kindSkipped // a payload whose number is too high
	kindAgain   // a payload whose number was there already
	kindHead    // a payload beside a head
	kindHollow  // a payload beside an empty head
	kindTorn    // no message: the transport broke
	kinds
)

// step is one message of a script.
type step struct {
	kind    int
	payload *commonv1.StreamPayload // nil without one
}

func (s script) steps() []step {
	var out []step
	seq := uint64(0)
	for ; len(s) >= 2 && len(out) < 64; s = s[2:] {
		st := step{kind: int(s[0]) % kinds}
		data := bytes.Repeat([]byte{s[1] | 1}, int(s[1])*(1+int(s[0])/kinds))
		switch st.kind {
		case kindNone, kindTorn:
		case kindSkipped:
			st.payload = &commonv1.StreamPayload{Seq: seq + 1, Data: data}
		case kindAgain:
			st.payload = &commonv1.StreamPayload{Seq: seq - 1, Data: data}
		default:
			st.payload = &commonv1.StreamPayload{Seq: seq, Data: data}
			seq++
		}
		out = append(out, st)
	}
	return out
}

// account says what a reader of the steps must find: the body up to where it is spoilt, and whether
// it is whole. The leading message's own head is in order.
func account(steps []step, length int64) (body []byte, whole bool) {
	for i, st := range steps {
		bad := st.kind == kindSkipped || st.kind == kindAgain || st.kind == kindTorn || i > 0 && st.kind == kindHead
		if bad {
			return body, false
		}
		data := st.payload.GetData()
		if length >= 0 && int64(len(body)+len(data)) > length {
			return body, false
		}
		body = append(body, data...)
	}
	return body, length < 0 || int64(len(body)) == length
}

// held watches that a reader asks for a message only when it has handed on all of those before.
type held struct {
	t             *testing.T
	came, handled int
	asked         int
}

func (h *held) ask(p *commonv1.StreamPayload) {
	h.asked++
	if h.came != h.handled {
		h.t.Fatalf("message %d was asked for while %d bytes of those before were still held", h.asked, h.came-h.handled)
	}
	h.came += len(p.GetData())
}

// read reads to the end, in pieces of the given size, and counts what was handed on.
func (h *held) read(r io.Reader, size int) ([]byte, error) {
	var out []byte
	buf := make([]byte, size)
	for {
		n, err := r.Read(buf)
		out = append(out, buf[:n]...)
		h.handled += n
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// Write takes what a WriterTo hands on.
func (h *held) Write(p []byte) (int, error) {
	h.handled += len(p)
	return len(p), nil
}

// typed fails the test unless an error is one of ours or the transport's own.
func typed(t *testing.T, err error) {
	t.Helper()
	var e *invoke.Error
	if err != errTorn && err != io.EOF && !errors.As(err, &e) {
		t.Fatalf("%v is neither an *invoke.Error nor what the transport said", err)
	}
	if e != nil && e.NotExecuted() {
		t.Fatalf("%v promises what only a face can know", e)
	}
}

func seedScripts(f *testing.F) {
	for _, s := range []script{
		{}, {kindPlain, 3}, {kindPlain, 1, kindPlain, 1, kindPlain, 1}, {kindNone, 0, kindNone, 0, kindPlain, 2},
		{kindPlain, 1, kindSkipped, 2}, {kindSkipped, 1}, {kindPlain, 1, kindAgain, 2}, {kindHead, 1, kindHead, 2},
		{kindHollow, 1, kindHollow, 2}, {kindPlain, 1, kindTorn, 0}, {kindTorn, 0}, {kindPlain, 0, kindPlain, 0},
		{kindPlain + kinds*30, 255, kindPlain, 255},
	} {
		for _, length := range []int16{-1, 0, 3, 510} {
			f.Add([]byte(s), length, uint8(1), uint8(7))
			f.Add([]byte(s), length, uint8(3), uint8(0))
		}
	}
}

// FuzzRequestStream plays streams of requests, in order and not. What is read as a whole body is
// exactly what was sent and what was announced; nothing more than one message is ever held.
func FuzzRequestStream(f *testing.F) {
	seedScripts(f)
	f.Fuzz(func(t *testing.T, s []byte, length int16, verb, size uint8) {
		steps, announced := script(s).steps(), max(int64(length), -1)
		h := &held{t: t}
		left := steps
		recv := func() (*reqMsg, error) {
			if len(left) == 0 {
				h.ask(nil)
				return nil, io.EOF
			}
			st := left[0]
			left = left[1:]
			if st.kind == kindTorn {
				return nil, errTorn
			}
			h.ask(st.payload)
			m := &reqMsg{Payload: st.payload}
			switch {
			case len(left) == len(steps)-1:
				m.Request = head(func(p *internalsv1.InternalInvokeRequest) {
					p.Message.HttpExtension.Verb = commonv1.HTTPExtension_Verb(verb % 10)
					if announced >= 0 {
						p.Metadata["Content-Length"] = list(strconv.FormatInt(announced, 10))
					}
				})
			case st.kind == kindHead:
				m.Request = head()
			case st.kind == kindHollow:
				m.Request = &internalsv1.InternalInvokeRequest{}
			}
			return m, nil
		}
		want, whole := account(steps, announced)
		r, err := ReadRequest(recv)
		if h.asked > 2 {
			t.Fatalf("%d messages were asked for before the body was read", h.asked)
		}
		if err != nil {
			if typed(t, err); whole && len(steps) > 0 {
				t.Fatalf("%v: %v", steps, err)
			}
			return
		}
		if r.Rest == nil {
			// All that was announced came at once; what may follow is nobody's.
			if r.Length != int64(len(r.Head)) || !bytes.HasPrefix(want, r.Head) || announced >= 0 && announced != r.Length || announced < 0 && len(want) > 0 {
				t.Fatalf("%v: %d bytes of %d as whole", steps, len(r.Head), announced)
			}
			return
		}
		got, err := h.read(r.Rest, int(size)+1)
		checkBody(t, steps, got, want, err, whole)
		if err != nil && r.Rest.Err() != err {
			t.Fatalf("the body remembers %v, and failed with %v", r.Rest.Err(), err)
		}
	})
}

// FuzzResponseStream is FuzzRequestStream for answers.
func FuzzResponseStream(f *testing.F) {
	seedScripts(f)
	f.Fuzz(func(t *testing.T, s []byte, length int16, code, size uint8) {
		steps, announced := script(s).steps(), max(int64(length), -1)
		for _, byWriter := range []bool{false, true} {
			h := &held{t: t}
			left := steps
			recv := func() (*respMsg, error) {
				if len(left) == 0 {
					h.ask(nil)
					return nil, io.EOF
				}
				st := left[0]
				left = left[1:]
				if st.kind == kindTorn {
					return nil, errTorn
				}
				h.ask(st.payload)
				m := &respMsg{Payload: st.payload}
				switch {
				case len(left) == len(steps)-1:
					m.Response = answer(int32(code))
					if announced >= 0 {
						m.Response.Headers["content-length"] = list(strconv.FormatInt(announced, 10))
					}
				case st.kind == kindHead:
					m.Response = answer(200)
				case st.kind == kindHollow:
					m.Response = &internalsv1.InternalInvokeResponse{}
				}
				return m, nil
			}
			closed := 0
			r, err := ReadResponse(recv, func() { closed++ })
			if h.asked > 1 {
				t.Fatalf("%d messages were asked for before the body was read", h.asked)
			}
			meaningless := code > 16 && code < 200
			if err != nil {
				if typed(t, err); closed != 0 {
					t.Fatal("let go of what was never handed over")
				}
				continue
			}
			if meaningless {
				t.Fatalf("status %d was taken for an answer", code)
			}
			want, whole := account(steps, announced)
			// An answer to HEAD states a length and has no body.
			whole = whole || isEmpty(steps)
			if byWriter {
				_, err = r.Body.(io.WriterTo).WriteTo(h)
				checkBody(t, steps, want[:min(h.handled, len(want))], want, err, whole)
			} else {
				var got []byte
				got, err = h.read(r.Body, int(size)+1)
				checkBody(t, steps, got, want, err, whole)
			}
			if err != nil {
				typed(t, err)
			}
			r.Body.Close()
			r.Body.Close()
			if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF || closed != 1 {
				t.Fatalf("after Close: %d, %v, let go %d times", n, err, closed)
			}
		}
	})
}

// isEmpty reports whether nothing is wrong with the steps, and nothing is in them.
func isEmpty(steps []step) bool {
	body, whole := account(steps, -1)
	return whole && len(body) == 0
}

func checkBody(t *testing.T, steps []step, got, want []byte, err error, whole bool) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%v: %d bytes were read, want %d", steps, len(got), len(want))
	}
	if (err == nil) != whole {
		t.Fatalf("%v: %d bytes, %v; whole is %v", steps, len(got), err, whole)
	}
	if err != nil {
		typed(t, err)
	}
}

// String says what a failing step was.
func (s step) String() string {
	return fmt.Sprintf("{%d: %d bytes, number %d}", s.kind, len(s.payload.GetData()), s.payload.GetSeq())
}
