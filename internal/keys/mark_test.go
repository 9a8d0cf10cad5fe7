package keys

import "testing"

// TestMark pins the bytes: agents and synchronizers of different versions compare sums of marks.
func TestMark(t *testing.T) {
	for _, c := range []struct {
		key      string
		revision int64
		want     uint64
	}{
		{"", 0, 0x3e7077fd2f66d689},
		{"/farcall/v1/demo/clusters/east/meta", 7, 0xdbbed84e791333ba},
		{"/farcall/v1/demo/clusters/east/meta", 8, 0x2bcdbbd8cb821073},
	} {
		if got := Mark(c.key, c.revision); got != c.want {
			t.Errorf("Mark(%q, %d) = %#x, want %#x", c.key, c.revision, got, c.want)
		}
	}
}

func BenchmarkMark(b *testing.B) {
	const key = "/farcall/v1/demo/clusters/east/services/default/checkout-payments/12"
	b.ReportAllocs()
	for b.Loop() {
		Mark(key, 123456)
	}
}
