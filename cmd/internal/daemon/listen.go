package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/identity"
)

// listeners opens listeners and closes them all again where a later one cannot be opened.
type listeners struct {
	open []net.Listener
	err  error
	// webs are the certificates of those that have one.
	webs []*identity.Web
}

// add opens one listener; key is the configuration's, for the message. After a failure it does
// nothing more.
func (l *listeners) add(key, network, address string) net.Listener {
	if l.err != nil {
		return nil
	}
	if network == "unix" {
		if err := clearSocket(address); err != nil {
			l.fail(key, address, err)
			return nil
		}
	}
	n, err := net.Listen(network, address)
	if err != nil {
		l.fail(key, address, err)
		return nil
	}
	l.open = append(l.open, n)
	return n
}

// face opens a listener for those who have no identity, with a certificate where one is configured; block
// is its key.
func (l *listeners) face(block string, c config.Listener, log *slog.Logger) net.Listener {
	var web *identity.Web
	if c.TLS != nil && l.err == nil {
		if web, l.err = identity.NewWeb(block, identity.WebConfig{Cert: c.TLS.Cert, Key: c.TLS.Key, CA: c.TLS.CA}, log); l.err != nil {
			return nil
		}
		l.webs = append(l.webs, web)
	}
	network, address := c.Network()
	n := l.add(block+".listen", network, address)
	if n == nil || web == nil {
		return n
	}
	return tls.NewListener(n, web.Config())
}

// clearSocket removes the socket that a killed process left behind; it is in nobody's way but
// ours. What somebody listens on, and what is no socket, stays.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s is there and is no socket: choose another path", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return syscall.EADDRINUSE
	}
	return os.Remove(path)
}

func (l *listeners) fail(key, address string, err error) {
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%s is in use: stop who listens there, or choose another address", address)
	}
	l.err = fmt.Errorf("%s: %w", key, err)
}

func (l *listeners) closeAll() {
	for _, n := range l.open {
		_ = n.Close() // nobody was served
	}
}

const portFile = "internal-port"

// internal opens the listener that peers dial. Where its port is 0, the port that was drawn
// before is taken again: peers keep it for the time that the synchronizer is away.
func (l *listeners) internal(listen string, dir *datadir.Dir) (net.Listener, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port != "0" || dir == nil {
		return l.add("internal.listen", "tcp", listen), nil
	}
	if b, err := os.ReadFile(dir.File(portFile)); err == nil {
		if p, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && p > 0 && p < 1<<16 {
			if n, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(p))); err == nil {
				l.open = append(l.open, n)
				return n, nil
			}
		}
	}
	n := l.add("internal.listen", "tcp", listen)
	if n == nil {
		return nil, nil
	}
	_, drawn, err := net.SplitHostPort(n.Addr().String())
	if err != nil {
		return nil, err
	}
	return n, datadir.WriteFile(dir.File(portFile), []byte(drawn+"\n"))
}

// advertised is where peers reach the internal listener: what is configured, else the host that
// it listens on, else, where that is every address, the one that this machine uses towards the
// synchronizer; where no synchronizer can be found now, the one that was used the last time,
// else the one towards the world.
func advertised(c *config.Agent, bound net.Addr, dir *datadir.Dir) (string, error) {
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil {
		return "", fmt.Errorf("internal.listen: %w", err)
	}
	if a := c.Internal.Advertise; a != "" {
		if h, p, err := net.SplitHostPort(a); err == nil {
			host, port = h, p
		} else {
			host = strings.Trim(a, "[]")
		}
		return net.JoinHostPort(host, port), nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = outward(c.Synchronizers, dir); err != nil {
			return "", err
		}
	}
	address := net.JoinHostPort(host, port)
	if err := catalog.CheckHostPort(address); err != nil {
		return "", fmt.Errorf("internal.advertise: %w", err)
	}
	return address, nil
}

const hostFile = "advertised-host"

// world is an address that is nobody's (RFC 5737) and everybody's route.
const world = "192.0.2.1:9"

// outward gives the address by which this machine is known outside, and remembers it in dir,
// which may be nil: a name service that is down at the next start must not keep the agent down.
func outward(synchronizers []string, dir *datadir.Dir) (string, error) {
	host, err := towards(synchronizers)
	if dir == nil {
		if err != nil {
			host, err = towards([]string{world})
		}
		return host, err
	}
	if err == nil {
		return host, datadir.WriteFile(dir.File(hostFile), []byte(host+"\n"))
	}
	if b, rerr := os.ReadFile(dir.File(hostFile)); rerr == nil && catalog.CheckHost(strings.TrimSpace(string(b))) == nil {
		return strings.TrimSpace(string(b)), nil
	}
	return towards([]string{world})
}

// towards returns this machine's source address for the first of addresses that has a route.
// Nothing is sent: connecting a UDP socket only chooses the route.
func towards(addresses []string) (string, error) {
	var errs []error
	for _, s := range addresses {
		c, err := net.Dial("udp", s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		host, _, err := net.SplitHostPort(c.LocalAddr().String())
		_ = c.Close() // nothing was sent
		if err == nil {
			return host, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("internal.advertise: no address of this machine leads to a synchronizer, so set it: %w", errors.Join(errs...))
}
