//go:build real && linux

package testkit

import (
	"strings"
	"testing"
)

func TestRealAvahiDaemonsHearEachOtherAndNobodyElse(t *testing.T) {
	if !Inside(t) {
		return
	}
	n := NewNetwork(t)
	a, b := Avahi(t, n.Host("a")), Avahi(t, n.Host("b"))
	a.Publish("x", "one", "_farcall._tcp", "", 8080, "app=cart")
	Eventually(t, Context(t), "b hears a", func() error {
		out, err := b.Run("avahi-browse", "-rpt", "_farcall._tcp")
		if err == nil && !strings.Contains(out, "one") {
			return errNot(out)
		}
		return err
	})
	out, err := b.Run("avahi-browse", "-rpt", "_farcall._tcp")
	t.Log(out, err)
	out, err = b.Run("avahi-resolve-host-name", "-4", "a.local")
	t.Log(out, err)
	if !strings.Contains(out, n.Prefix.Addr().Next().String()) {
		t.Error("a.local has another address")
	}
}

type errNot string

func (e errNot) Error() string { return string(e) }
