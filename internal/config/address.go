package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
)

// checkListen says why nobody could listen on s, with what was probably meant, or nil. S is
// host:port, with port 0 for any free one, or unix:///path where unix is allowed. The port is
// the default one, for corrections.
func checkListen(s, port string, unix bool) error {
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		path := "/" + strings.TrimLeft(rest, "/")
		switch {
		case !unix:
			return fmt.Errorf("%q: a unix socket is not possible here: want host:port", s)
		case len(path) == 1:
			return fmt.Errorf("%q names no file: want unix:///path", s)
		case !strings.HasPrefix(rest, "///") || strings.HasPrefix(rest, "////"):
			return fmt.Errorf("%q: want unix:///path; did you mean %q?", s, "unix://"+path)
		}
		return nil
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return notHostPort(s, port)
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || strconv.FormatUint(n, 10) != p {
		return fmt.Errorf("%q: port %q is not in 0 to 65535", s, p)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsMulticast() {
			return fmt.Errorf("%q: nobody can listen on a multicast address", s)
		}
		return nil
	}
	if host == "" {
		return nil
	}
	return catalog.CheckHost(host)
}

// checkDial says why s is not a host:port to dial, with what was probably meant, or nil.
func checkDial(s, port string) error {
	host, _, err := net.SplitHostPort(s)
	if err != nil {
		return notHostPort(s, port)
	}
	if host == "" {
		return fmt.Errorf("%q has no host; did you mean %q?", s, "127.0.0.1"+s)
	}
	return catalog.CheckHostPort(s)
}

// notHostPort words the error for s that is not host:port, and mends it where that is plain.
func notHostPort(s, port string) error {
	for _, mended := range []string{
		strings.TrimSpace(s),
		strings.TrimSpace(s) + ":" + port,
		"127.0.0.1:" + s,
		bracketed(s),
		net.JoinHostPort(s, port),
		stripURL(s),
		stripURL(s) + ":" + port,
	} {
		if mended != s && plain(mended) {
			return fmt.Errorf("%q is not host:port; did you mean %q?", s, mended)
		}
	}
	return fmt.Errorf("%q is not host:port", s)
}

// plain reports whether a mended address would be taken, and reads as one that was meant: a
// host that is a bare number was a port.
func plain(s string) bool {
	host, _, err := net.SplitHostPort(s)
	if err != nil || catalog.CheckHostPort(s) != nil {
		return false
	}
	_, err = strconv.Atoi(host)
	return err != nil
}

// bracketed takes "::1:7700" for "[::1]:7700".
func bracketed(s string) string {
	i := strings.LastIndexByte(s, ':')
	if i < 1 || len(s)-i < 4 { // "::1" is an address whose last colon starts no port
		return s
	}
	if _, err := netip.ParseAddr(s[:i]); err != nil {
		return s
	}
	return net.JoinHostPort(s[:i], s[i+1:])
}

func stripURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	return u.Host
}

// checkAdvertise says why peers could not be told s, which is host or host:port, or nil.
func checkAdvertise(s string) error {
	if _, err := netip.ParseAddr(s); err == nil || !strings.Contains(s, ":") {
		return catalog.CheckHost(s)
	}
	if err := catalog.CheckHostPort(s); err != nil {
		return fmt.Errorf("%w: want host or host:port", err)
	}
	return nil
}

// checkEndpoint says why s is neither host:port nor an http(s) URL of host:port, or nil. The
// scheme is empty where s states none.
func checkEndpoint(s, port string) (scheme string, err error) {
	if !strings.Contains(s, "://") {
		return "", checkDial(s, port)
	}
	u, err := url.Parse(s)
	if err != nil {
		// The parser's own words repeat the address, which could hold a password.
		return "", errors.New("is not a URL: want host:port, http://host:port or https://host:port")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("scheme %q is not taken: want host:port, http://host:port or https://host:port", u.Scheme)
	case u.User != nil:
		return "", errors.New("a user or password in the address is not taken")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%q says more than scheme and host:port", s)
	}
	return u.Scheme, checkDial(u.Host, port)
}
