package proxy

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// counted is a pool that knows how many of its buffers are out.
type counted struct{ out atomic.Int64 }

func (c *counted) Get(n int) *[]byte {
	c.out.Add(1)
	b := make([]byte, n)
	return &b
}

func (c *counted) Put(*[]byte) { c.out.Add(-1) }

// A frame goes through without being copied, and its buffer goes back once: when both gRPC and the
// frame have let go of it.
func TestFramesShareTheirBytes(t *testing.T) {
	pool := &counted{}
	in := mem.BufferSlice{mem.Copy(bytes.Repeat([]byte("x"), 4<<10), pool)}
	first := &in[0].ReadOnlyData()[0]
	c := codec("")
	var f frame
	if err := c.Unmarshal(in, &f); err != nil {
		t.Fatal(err)
	}
	in.Free() // as gRPC does
	out, err := c.Marshal(&f)
	if err != nil {
		t.Fatal(err)
	}
	if &out[0].ReadOnlyData()[0] != first {
		t.Error("the bytes were copied")
	}
	f.free()
	if n := pool.out.Load(); n != 1 {
		t.Fatalf("%d buffers out while gRPC has the message", n)
	}
	out.Free()
	if n := pool.out.Load(); n != 0 {
		t.Errorf("%d buffers out in the end", n)
	}
}

// Any other message is what it was without proxying.
func TestOtherMessagesAreTheUsual(t *testing.T) {
	c := codec("proto")
	b, err := c.Marshal(wrapperspb.String("word"))
	if err != nil {
		t.Fatal(err)
	}
	for _, into := range []any{new(wrapperspb.StringValue), &limited{message: new(wrapperspb.StringValue)}} {
		if err := c.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
		m, ok := into.(*wrapperspb.StringValue)
		if !ok {
			m = into.(*limited).message.(*wrapperspb.StringValue)
		}
		if m.GetValue() != "word" {
			t.Errorf("got %q", m.GetValue())
		}
	}
	if _, err := c.Marshal("no message"); err == nil {
		t.Error("a string was marshalled")
	}
}

// TestContentSubtype says how the caller's content type reaches the callee.
func TestContentSubtype(t *testing.T) {
	for _, c := range []struct{ contentType, subtype string }{
		{"", ""},
		{"application/grpc", ""},
		{"application/grpc+", ""},
		{"application/grpc;charset=x", ""},
		{"application/grpc+proto", "proto"},
		{"application/grpc+json", "json"},
	} {
		var in []string
		if c.contentType != "" {
			in = []string{c.contentType}
		}
		found := false
		for _, o := range callOptions(in) {
			if force, ok := o.(grpc.ForceCodecV2CallOption); ok {
				found = true
				if got := force.CodecV2.Name(); got != c.subtype {
					t.Errorf("%q: got %q, want %q", c.contentType, got, c.subtype)
				}
			}
		}
		if !found {
			t.Errorf("%q: no codec", c.contentType)
		}
	}
	if strings.Contains(named.Name(), "+") {
		t.Error("a codec's name is a subtype")
	}
}
