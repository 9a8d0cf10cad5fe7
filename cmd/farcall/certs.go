package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
)

const (
	authorityFor = 365 * 24 * time.Hour
	identityFor  = 90 * 24 * time.Hour
)

// certs is one of the verbs below certs.
type certs struct {
	*cli
	dir    string
	domain string
	valid  time.Duration
	force  bool
}

func (c *cli) certsCommand() *cobra.Command {
	return group("certs", "Make an authority for development, and the identities of a federation's processes",
		c.certsInit(),
		c.certsIdentity("synchronizer <group>", "Make the identity of synchronizers",
			"A group is the synchronizers that look after the same clusters: one name will do, such as main.", 1,
			func(args []string) identity.ID { return identity.ID{Role: identity.Synchronizer, Name: args[0]} }),
		c.certsIdentity("agent <cluster> <node>", "Make the identity of a node's agent",
			"The names are those of the agent's configuration. Each agent has its own.", 2,
			func(args []string) identity.ID { return identity.AgentID("", args[0], args[1]) }),
		c.certsIdentity("user <name>", "Make the identity of somebody who asks a synchronizer",
			"It is for farcall itself: --tls-cert, --tls-key and --tls-ca.", 1,
			func(args []string) identity.ID { return identity.ID{Role: identity.User, Name: args[0]} }),
	)
}

func (s *certs) flags(cmd *cobra.Command, valid time.Duration) {
	f := cmd.Flags()
	f.StringVar(&s.dir, "dir", "./farcall-certs", "folder of the authority and of the identities that it made")
	f.DurationVar(&s.valid, "for", valid, "how long what is made is valid")
	f.BoolVar(&s.force, "force", false, "overwrite what is there")
}

func (c *cli) certsInit() *cobra.Command {
	s := &certs{cli: c}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make an authority for development",
		Long: "Makes a certificate authority in a folder: ca.pem, which every process of the federation believes, and ca-key.pem, with\n" +
			"which the other verbs sign, and which no process needs. Whoever has the key is whoever they like.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return s.init() },
	}
	s.flags(cmd, authorityFor)
	cmd.Flags().StringVar(&s.domain, "trust-domain", "farcall.local", "trust domain: the name of those who believe each other")
	return cmd
}

func (c *cli) certsIdentity(use, short, long string, args int, of func([]string) identity.ID) *cobra.Command {
	s := &certs{cli: c}
	cmd := &cobra.Command{
		Use: use, Short: short,
		Long: short + ": a folder with cert.pem, key.pem and ca.pem, which goes to the machine as it is.\n" + long,
		Args: cobra.ExactArgs(args),
		RunE: func(_ *cobra.Command, args []string) error { return s.identity(of(args)) },
	}
	s.flags(cmd, identityFor)
	return cmd
}

func (s *certs) init() error {
	if err := s.checkFor(); err != nil {
		return err
	}
	if err := identity.CheckTrustDomain(s.domain); err != nil {
		return usagef("--trust-domain %w", err)
	}
	a, err := authority.New(s.domain, time.Now(), s.valid)
	if err != nil {
		return err
	}
	cert, key, err := a.PEM()
	if err != nil {
		return err
	}
	ca, caKey := filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "ca-key.pem")
	err = s.write(pemFile{caKey, key}, pemFile{ca, cert})
	if errors.Is(err, os.ErrExist) {
		return &exitError{code: exitFailed, err: fmt.Errorf("certs init: there is an authority: %w", err),
			hint: "--force makes another, by which the identities that this one made are believed no more"}
	}
	if err != nil {
		return fmt.Errorf("certs init: %w", err)
	}
	fmt.Fprintf(s.stderr, "authority of %s, valid until %s; keep %s to yourself\n", s.domain, stamp(a.NotAfter()), caKey)
	return s.made(madeFiles{TrustDomain: s.domain, CA: ca, Key: caKey, NotAfter: a.NotAfter()}, ca)
}

func (s *certs) identity(id identity.ID) error {
	if err := s.checkFor(); err != nil {
		return err
	}
	caFile := filepath.Join(s.dir, "ca.pem")
	a, ca, err := s.authority(caFile)
	if err != nil {
		return err
	}
	id.TrustDomain = a.TrustDomain()
	if err := id.Check(); err != nil {
		return usagef("%w", err)
	}
	now := time.Now()
	cert, key, err := a.Issue(id, now, s.valid)
	if err != nil {
		return err
	}
	_, path, _ := strings.Cut(id.String(), id.TrustDomain)
	dir := filepath.Join(s.dir, filepath.FromSlash(path))
	m := madeFiles{
		SpiffeID: id.String(), TrustDomain: id.TrustDomain, NotAfter: now.Add(s.valid),
		Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: filepath.Join(dir, "ca.pem"),
	}
	if m.NotAfter.After(a.NotAfter()) {
		m.NotAfter = a.NotAfter()
	}
	err = s.write(pemFile{m.Key, key}, pemFile{m.Cert, cert}, pemFile{m.CA, ca})
	if errors.Is(err, os.ErrExist) {
		return &exitError{code: exitFailed, err: fmt.Errorf("certs: there is such an identity: %w", err),
			hint: "--force makes it anew; a process that uses it takes the new one while it runs"}
	}
	if err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	fmt.Fprintf(s.stderr, "%s, valid until %s; %s:\n", id, stamp(m.NotAfter), purpose(id.Role))
	if id.Role == identity.User {
		return s.made(m, fmt.Sprintf("export FARCALL_TLS_CERT=%s FARCALL_TLS_KEY=%s FARCALL_TLS_CA=%s", m.Cert, m.Key, m.CA))
	}
	return s.made(m, fmt.Sprintf("tls: {cert: %s, key: %s, ca: %s}", m.Cert, m.Key, m.CA))
}

func purpose(r identity.Role) string {
	if r == identity.User {
		return "for the shell that farcall is typed into"
	}
	return "for the " + string(r) + "'s configuration"
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (s *certs) checkFor() error {
	if s.valid <= 0 {
		return usagef("--for %s: want a time to be valid for, such as 24h", s.valid)
	}
	return nil
}

// authority reads the authority of the folder, and its certificate as it is.
func (s *certs) authority(caFile string) (*authority.Authority, []byte, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, nil, &exitError{code: exitFailed, err: fmt.Errorf("certs: no authority: %w", err), hint: "farcall certs init --dir " + s.dir + " makes one"}
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "ca-key.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("certs: %w", err)
	}
	a, err := authority.Load(ca, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certs: %s with ca-key.pem: %w", caFile, err)
	}
	if time.Now().After(a.NotAfter()) {
		return nil, nil, fmt.Errorf("certs: the authority in %s expired at %s", caFile, stamp(a.NotAfter()))
	}
	return a, ca, nil
}

type pemFile struct {
	path string
	text []byte
}

// write writes files that only their owner can read; each is there as a whole or not at all. Without
// --force it writes none where one of them is there: the error is then os.ErrExist.
func (s *certs) write(files ...pemFile) error {
	for _, f := range files {
		if _, err := os.Lstat(f.path); err == nil && !s.force {
			return fmt.Errorf("%s: %w", f.path, os.ErrExist)
		}
	}
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
			return err
		}
		next := f.path + ".new"
		if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err // else what somebody else may read would keep its mode
		}
		if err := errors.Join(os.WriteFile(next, f.text, 0o600), os.Rename(next, f.path)); err != nil {
			return err
		}
	}
	return nil
}

// madeFiles is what was made, for programs.
type madeFiles struct {
	SpiffeID    string    `json:"spiffeId,omitempty"`
	TrustDomain string    `json:"trustDomain"`
	Cert        string    `json:"cert,omitempty"`
	Key         string    `json:"key"`
	CA          string    `json:"ca"`
	NotAfter    time.Time `json:"notAfter"`
}

// made prints what was made; line is it for people.
func (s *certs) made(m madeFiles, line string) error {
	if s.output == formatTable {
		_, err := fmt.Fprintln(s.stdout, line)
		return err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.printJSON(b)
}
