package testkit

import (
	"net"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

func TestNobodyRefuses(t *testing.T) {
	at := Nobody(t).String()
	if c, err := net.Dial("tcp", at); err == nil {
		c.Close()
		t.Error("somebody answered")
	}
	if l, err := net.Listen("tcp", at); err == nil {
		l.Close()
		t.Error("the port can be taken")
	}
}
