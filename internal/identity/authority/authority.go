// Package authority makes a certificate authority for development, and the identities of a federation's
// processes: what `farcall certs` writes, and what tests need.
//
// It is no authority for production: its key lies in a file, it takes nothing back, and it renews
// nothing. It runs no goroutines.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/farcall/farcall/internal/identity"
)

// backdated is how long before it is made a certificate is valid: clocks differ.
const backdated = 5 * time.Minute

// Authority signs identities of one trust domain. It is immutable.
type Authority struct {
	domain string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

// New makes an authority of a trust domain, valid for so long from now.
func New(domain string, now time.Time, valid time.Duration) (*Authority, error) {
	if err := identity.CheckTrustDomain(domain); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Farcall development"}, CommonName: domain}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	a := &Authority{domain: domain, key: key}
	der, err := a.sign(template, template, &key.PublicKey, now, valid)
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// Load reads an authority from its certificate and key in PEM, as PEM gave them.
func Load(certPEM, keyPEM []byte) (*Authority, error) {
	c, _ := pem.Decode(certPEM)
	k, _ := pem.Decode(keyPEM)
	if c == nil || c.Type != "CERTIFICATE" || k == nil || k.Type != "PRIVATE KEY" {
		return nil, errors.New("want a certificate and a PKCS #8 key in PEM")
	}
	cert, err := x509.ParseCertificate(c.Bytes)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(k.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	switch {
	case !ok || !key.PublicKey.Equal(cert.PublicKey):
		return nil, errors.New("the key is not the certificate's")
	case !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Path != "":
		return nil, errors.New("the certificate is not that of a trust domain's authority")
	}
	return &Authority{domain: cert.URIs[0].Host, cert: cert, key: key}, nil
}

// TrustDomain is the authority's.
func (a *Authority) TrustDomain() string { return a.domain }

// NotAfter is when the authority's own certificate expires.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// PEM gives the certificate, and the key in PKCS #8.
func (a *Authority) PEM() (certPEM, keyPEM []byte, err error) { return pair(a.cert.Raw, a.key) }

// Issue makes a certificate of an identity, valid for so long from now, and no longer than the
// authority itself. Both are PEM; the key is PKCS #8.
func (a *Authority) Issue(id identity.ID, now time.Time, valid time.Duration) (certPEM, keyPEM []byte, err error) {
	if err := id.Check(); err != nil {
		return nil, nil, err
	}
	if id.TrustDomain != a.domain {
		return nil, nil, fmt.Errorf("%s: this is the authority of trust domain %s", id, a.domain)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, nil, err
	}
	return a.Sign(&x509.Certificate{Subject: pkix.Name{Organization: []string{"Farcall development"}}, URIs: []*url.URL{uri}}, now, valid)
}

// Sign makes a certificate out of a template, whatever that says: tests need wrong ones. Of the
// template, serial number, times and usages are set.
func (a *Authority) Sign(template *x509.Certificate, now time.Time, valid time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage |= x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := a.sign(template, a.cert, &key.PublicKey, now, valid)
	if err != nil {
		return nil, nil, err
	}
	return pair(der, key)
}

func (a *Authority) sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, now time.Time, valid time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-backdated), now.Add(valid)
	if a.cert != nil && template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
}

func pair(der []byte, key *ecdsa.PrivateKey) (certPEM, keyPEM []byte, err error) {
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), nil
}
