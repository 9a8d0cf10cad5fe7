package datadir

import (
	"bytes"
	"testing"
)

func FuzzUnseal(f *testing.F) {
	f.Add([]byte(nil), uint(0))
	f.Add([]byte("body"), uint(3))
	f.Add([]byte("body"), uint(20))
	f.Add([]byte("body"), uint(45))
	f.Fuzz(func(t *testing.T, body []byte, at uint) {
		sealed := Seal("a thing 1", body)
		if got, err := Unseal("a thing 1", sealed); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%q came back as %q, %v", body, got, err)
		}
		if _, err := Unseal("a thing 2", sealed); err == nil {
			t.Error("another thing is taken")
		}
		cut := sealed[:at%uint(len(sealed))]
		if got, err := Unseal("a thing 1", cut); err == nil {
			t.Errorf("cut at %d it gives %q", len(cut), got)
		}
		bent := bytes.Clone(sealed)
		bent[at%uint(len(bent))] ^= 1
		if got, err := Unseal("a thing 1", bent); err == nil {
			t.Errorf("bent at %d it gives %q", at%uint(len(bent)), got)
		}
		if _, err := Unseal("a thing 1", body); err == nil {
			t.Error("a body without a seal is taken")
		}
	})
}
