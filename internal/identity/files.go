package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// maxFile bounds a PEM file, in bytes: a bundle of thousands of authorities is smaller.
	maxFile = 4 << 20
	// lookEvery is how often files are looked at. A change is taken when two looks found the same: who
	// writes several files, or one in several pieces, is not read in the middle of it.
	lookEvery = 500 * time.Millisecond
)

// contents are what the files of one identity hold: certificate, key and authorities.
type contents struct {
	cert, key, ca string // paths; ca may be empty
	text          [3][]byte
	chain         []*x509.Certificate // set by pair
}

// readFiles reads them; ca may be empty.
func readFiles(cert, key, ca string) (*contents, error) {
	c := &contents{cert: cert, key: key, ca: ca}
	for i, path := range []string{cert, key, ca} {
		if path == "" {
			continue
		}
		var err error
		if c.text[i], err = readFile(path); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d MiB: this is no PEM file", path, maxFile>>20)
	}
	return b, err
}

// bytes gives all of it, to be compared.
func (c *contents) bytes() []byte { return bytes.Join(c.text[:], []byte{0}) }

// pair gives the certificate with its key, and keeps the parsed chain.
func (c *contents) pair() (tls.Certificate, error) {
	chain, err := certificates(c.cert, c.text[0])
	if err != nil {
		return tls.Certificate{}, err
	}
	// It reads the keys of cert-manager, step and Vault alike: PKCS #8, PKCS #1, SEC 1.
	pair, err := tls.X509KeyPair(c.text[0], c.text[1])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s with %s: %w", c.cert, c.key, err)
	}
	c.chain = chain
	return pair, nil
}

// authorities gives the certificates in the third file.
func (c *contents) authorities() ([]*x509.Certificate, error) {
	list, err := certificates(c.ca, c.text[2])
	if err != nil {
		return nil, err
	}
	for i, a := range list {
		if !a.IsCA {
			return nil, fmt.Errorf("%s: certificate %d is not an authority's", c.ca, i+1)
		}
	}
	return list, nil
}

// certificates reads all of a PEM file, at least one. One that ends in the middle is an error: it is
// being written.
func certificates(path string, text []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(list)+1, err)
		}
		list = append(list, c)
	}
	switch {
	case bytes.Contains(text, []byte("-----BEGIN")):
		return nil, fmt.Errorf("%s ends in the middle of certificate %d, or holds what is no PEM", path, len(list)+1)
	case len(list) == 0:
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return list, nil
}

// watcher looks whether files changed.
type watcher struct {
	paths []string // of certificate, key and authorities; the last may be empty
	have  []byte   // what they held when it was taken last
}

// run takes what the files hold whenever that is another, until ctx is done, and tells how that went.
// What was not taken is tried again as long as it stays (a certificate's time may only be about to
// come), and told again only where the error is another.
func (w *watcher) run(ctx context.Context, take func(*contents) error, tell func(error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var before []byte // what the last look found
	said := ""        // the error that was told last, of what is there now
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		found, err := readFiles(w.paths[0], w.paths[1], w.paths[2])
		now := []byte(fmt.Sprint(err))
		if err == nil {
			now = found.bytes()
		}
		stable := bytes.Equal(now, before)
		before = now
		if bytes.Equal(now, w.have) {
			said = ""
			continue
		}
		if !stable {
			continue
		}
		if err == nil {
			err = take(found)
		}
		switch {
		case err == nil:
			w.have, said = now, ""
			tell(nil)
		case err.Error() != said:
			said = err.Error()
			tell(err)
		}
	}
}
