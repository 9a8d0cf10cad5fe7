//go:build real && unix

package testkit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// ask sends a request to an API server as a user, and gives the status and the body.
func (s *KubernetesServer) ask(t *testing.T, user, method, path, body string) (int, string) {
	t.Helper()
	ca, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool},
	}}
	req, err := http.NewRequestWithContext(Context(t), method, "https://"+s.Addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+KubernetesToken(user))
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(answer)
}

func TestRealKubernetes(t *testing.T) {
	s := Kubernetes(t, "reader")
	const services = "/api/v1/namespaces/default/services"
	wants := func(what, user, method, path, body string, status int) {
		t.Helper()
		if got, answer := s.ask(t, user, method, path, body); got != status {
			t.Errorf("%s: status %d, want %d: %.300s", what, got, status, answer)
		}
	}
	wants("a user without a role", "reader", http.MethodGet, services, "", http.StatusForbidden)
	wants("an unknown user", "nobody", http.MethodGet, services, "", http.StatusUnauthorized)
	wants("the administrator writes", KubernetesAdmin, http.MethodPost, services,
		`{"metadata": {"name": "cart"}, "spec": {"clusterIP": "None"}}`, http.StatusCreated)

	s.Kill()
	wants("a killed server", KubernetesAdmin, http.MethodGet, services, "", 0)
	s.Start()
	wants("it keeps its data", KubernetesAdmin, http.MethodGet, services+"/cart", "", http.StatusOK)

	s.Pause()
	wants("a paused server", KubernetesAdmin, http.MethodGet, services, "", 0)
	s.Resume()
	Eventually(t, Context(t), "it answers after resume", func() error {
		if got, answer := s.ask(t, KubernetesAdmin, http.MethodGet, services, ""); got != http.StatusOK {
			return errors.New(answer)
		}
		return nil
	})
}
