package reachability

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// greeting is what a client of HTTP/2 begins with (RFC 9113 section 3.4): the preface and settings
// that state nothing.
const greeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

const (
	frameHead     = 9 // bytes; the fourth is the frame's type
	frameSettings = 4
)

// Greet connects to a relay, exchanges greetings with it and hangs up. A connection alone proves
// nothing: the kernel accepts it for a process that stands still. connected is the time until
// there was a connection, which tells of the network and not of the process.
func Greet(ctx context.Context, address string) (connected time.Duration, err error) {
	return greet(ctx, address, func(c net.Conn) (net.Conn, error) { return c, nil })
}

// GreetOver is Greet over TLS, so that a relay that would refuse this agent's calls does not pass for
// one that answers. Where plaintext is set, a relay that does not speak TLS at all is greeted without:
// nothing is entrusted to it.
func GreetOver(c *tls.Config, plaintext bool) func(ctx context.Context, address string) (time.Duration, error) {
	return func(ctx context.Context, address string) (time.Duration, error) {
		connected, err := greet(ctx, address, func(raw net.Conn) (net.Conn, error) {
			conn := tls.Client(raw, c)
			return conn, conn.HandshakeContext(ctx)
		})
		var not tls.RecordHeaderError
		if plaintext && errors.As(err, &not) {
			return Greet(ctx, address)
		}
		return connected, err
	}
}

func greet(ctx context.Context, address string, over func(net.Conn) (net.Conn, error)) (connected time.Duration, err error) {
	began := time.Now()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	connected = time.Since(began)
	defer func() { _ = c.Close() }() // nothing was entrusted to it
	// An end of ctx ends what waits below.
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	conn, err := over(c)
	if err == nil {
		err = exchange(conn)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("it accepts connections and says nothing")
		}
		return connected, fmt.Errorf("%s: %w", address, err)
	}
	return connected, nil
}

func exchange(c net.Conn) error {
	if _, err := io.WriteString(c, greeting); err != nil {
		return err
	}
	var head [frameHead]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if head[3] != frameSettings {
		return errors.New("it does not speak HTTP/2")
	}
	return nil
}
