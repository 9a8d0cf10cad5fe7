package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/internal/identity"
)

// checkTLS takes what the flags leave out from the environment, and wants all of it or nothing.
func (c *cli) checkTLS() error {
	missing, set := "", ""
	for _, f := range []struct {
		flag, variable string
		value          *string
	}{
		{"--tls-cert", "FARCALL_TLS_CERT", &c.tls.Cert},
		{"--tls-key", "FARCALL_TLS_KEY", &c.tls.Key},
		{"--tls-ca", "FARCALL_TLS_CA", &c.tls.CA},
	} {
		if *f.value == "" {
			*f.value = os.Getenv(f.variable)
		}
		if *f.value == "" {
			missing = f.flag
		} else {
			set = f.flag
		}
	}
	if missing != "" && set != "" {
		return usagef("%s stands without %s: want --tls-cert, --tls-key and --tls-ca, or none of them", set, missing)
	}
	return nil
}

// credentials are how the synchronizer is spoken to.
func (c *cli) credentials() (credentials.TransportCredentials, error) {
	if c.tls.Cert == "" {
		return insecure.NewCredentials(), nil
	}
	// Nobody looks at what it counts and logs: its errors come back with the call.
	id, err := identity.New(c.tls, identity.Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		return nil, &exitError{code: exitUsage, err: fmt.Errorf("--tls-cert, --tls-key, --tls-ca: %w", err)}
	}
	return id.ClientCredentials(identity.Any(identity.Synchronizer)), nil
}

// hinted says besides what else may be wrong where nobody answers a plaintext question.
func (c *cli) hinted(err error) error {
	var e *exitError
	if errors.As(err, &e) && e.code == exitUnreachable && c.tls.Cert == "" {
		e.hint += "; of one that has tls, --tls-cert, --tls-key and --tls-ca"
	}
	return err
}
