package synchronizer

import (
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"

	"github.com/farcall/farcall/internal/testkit"
)

// What one connection can take is bounded, and said so; one on which nothing is said is ended.
func TestLimits(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	conn, err := net.Dial("tcp", r.s.grpcL.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	f, err := framer.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := f.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("the first frame is %v", f)
	}
	for id, want := range map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: maxStreams, http2.SettingMaxHeaderListSize: 64 << 10} {
		if got, _ := settings.Value(id); got != want {
			t.Errorf("%v is %d, want %d", id, got, want)
		}
	}

	silent, err := net.Dial("tcp", r.s.grpcL.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	deadline, _ := testkit.Context(t).Deadline()
	if err := silent.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	// The server says its settings first, and then hangs up.
	if _, err := io.Copy(io.Discard, silent); err != nil {
		t.Errorf("a connection on which nothing is said: %v", err)
	}
}
