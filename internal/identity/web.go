package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// WebConfig is the certificate of a listener for those who have no identity: applications, browsers,
// Prometheus. All are paths of PEM files.
type WebConfig struct {
	Cert, Key string
	// CA, where it is not empty, are the authorities of which one must have signed the certificate that
	// a client shows. Without it, clients show none.
	CA string
}

// Web is such a listener's certificate as it is now. Its methods are safe for concurrent use.
type Web struct {
	cfg   WebConfig
	name  string
	log   *slog.Logger
	state atomic.Pointer[webState]
	have  []byte // what the files in force held; Run's
}

// webState is not changed.
type webState struct {
	cert    tls.Certificate
	clients *x509.CertPool // nil: nobody is asked
}

// NewWeb reads the files, which must be right. name is the listener's, for messages.
func NewWeb(name string, cfg WebConfig, log *slog.Logger) (*Web, error) {
	w := &Web{cfg: cfg, name: name, log: log}
	found, err := readFiles(cfg.Cert, cfg.Key, cfg.CA)
	if err == nil {
		err = w.take(found)
	}
	if err != nil {
		return nil, fmt.Errorf("%s.tls: %w", name, err)
	}
	return w, nil
}

// Run follows the files until ctx is done and returns ctx.Err(). As with a Source, what is wrong is
// logged and leaves the last good certificate in force.
func (w *Web) Run(ctx context.Context) error {
	watch := &watcher{paths: []string{w.cfg.Cert, w.cfg.Key, w.cfg.CA}, have: w.have}
	return watch.run(ctx, w.take, func(err error) {
		if err != nil {
			w.log.Error("the new certificate of a listener cannot be used; the last good one stays in force", "listener", w.name, "error", err)
			return
		}
		w.log.Info("certificate of a listener", "listener", w.name, "expires", w.state.Load().cert.Leaf.NotAfter)
	})
}

func (w *Web) take(found *contents) error {
	pair, err := found.pair()
	if err != nil {
		return err
	}
	st := &webState{cert: pair}
	if st.cert.Leaf == nil {
		st.cert.Leaf = found.chain[0]
	}
	if now := time.Now(); now.After(st.cert.Leaf.NotAfter) {
		return fmt.Errorf("%s expired at %s", w.cfg.Cert, st.cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	if w.cfg.CA != "" {
		list, err := found.authorities()
		if err != nil {
			return err
		}
		st.clients = x509.NewCertPool()
		for _, a := range list {
			st.clients.AddCert(a)
		}
	}
	w.state.Store(st)
	w.have = found.bytes()
	return nil
}

// Config is the TLS of the listener, for HTTP/1.1 and HTTP/2; each connection gets what is in force
// then.
func (w *Web) Config() *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		st := w.state.Load()
		c := &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: base.NextProtos, SessionTicketsDisabled: true,
			Certificates: []tls.Certificate{st.cert},
		}
		if st.clients != nil {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, st.clients
		}
		return c, nil
	}
	return base
}
