//go:build unix

package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// KubernetesServer is a real Kubernetes API server with RBAC on, and the etcd that it keeps its
// data in. No controllers run: tests write Services, EndpointSlices and Nodes themselves. Its
// methods are for the test's goroutine only.
type KubernetesServer struct {
	// Addr is host:port of its API, which speaks TLS only.
	Addr string
	// CA is the PEM file of the authority that its certificate is signed by.
	CA string
	// Etcd is its store: one member.
	Etcd *EtcdCluster

	t    testing.TB
	proc *process
}

// KubernetesAdmin is the user who may do everything.
const KubernetesAdmin = "admin"

// KubernetesToken gives the token of a user, of those that Kubernetes was started with.
func KubernetesToken(user string) string { return "token-of-" + user }

// Kubernetes starts an API server that lives as long as the test, and returns when it is ready.
// Besides KubernetesAdmin it knows these users, who may do nothing until somebody binds a role
// to them.
func Kubernetes(t testing.TB, users ...string) *KubernetesServer {
	t.Helper()
	s := &KubernetesServer{t: t, Etcd: Etcd(t, 1)}
	launch(t, func() []*process {
		port := FreePort(t)
		s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
		s.proc = newProcess(t, "kube-apiserver", "kube-apiserver-"+strconv.Itoa(port))
		s.CA = filepath.Join(s.proc.dir, "apiserver.crt") // made by the server; ends with its authority
		signing := filepath.Join(s.proc.dir, "service-account.key")
		tokens := filepath.Join(s.proc.dir, "tokens.csv")
		writeFile(t, signing, newKey(t))
		lines := fmt.Sprintf("%s,%s,%[2]s,system:masters\n", KubernetesToken(KubernetesAdmin), KubernetesAdmin)
		for _, u := range users {
			lines += fmt.Sprintf("%s,%s,%[2]s\n", KubernetesToken(u), u)
		}
		writeFile(t, tokens, lines)
		s.proc.args = []string{
			"--etcd-servers=" + strings.Join(s.Etcd.Endpoints, ","),
			"--bind-address=127.0.0.1",
			// Of TEST-NET-1: it is only written down, and without one the server wants a default route.
			"--advertise-address=192.0.2.1", "--secure-port=" + strconv.Itoa(port), "--cert-dir=" + s.proc.dir,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + signing, "--service-account-signing-key-file=" + signing,
			"--service-cluster-ip-range=10.0.0.0/16,fd00:10::/112",
			"--token-auth-file=" + tokens, "--authorization-mode=RBAC",
			// It wants a service account in each namespace, which a controller would make.
			"--disable-admission-plugins=ServiceAccount",
			// Those who read are not slowed down, whatever else this machine does.
			"--enable-priority-and-fairness=false",
		}
		return []*process{s.proc}
	}, s.ready)
	return s
}

func (s *KubernetesServer) ready() error {
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return err
	}
	pool.AppendCertsFromPEM(pem)
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	req, err := http.NewRequest(http.MethodGet, "https://"+s.Addr+"/readyz", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+KubernetesToken(KubernetesAdmin))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", resp.Status)
	}
	return nil
}

// Kill ends the API server at once. What it knew stays in Etcd.
func (s *KubernetesServer) Kill() { s.proc.kill() }

// Start starts a killed API server again on the same port, and waits until it is ready.
func (s *KubernetesServer) Start() {
	s.t.Helper()
	s.proc.start()
	if err := awaitReady(s.t, []*process{s.proc}, s.ready); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the API server's work (SIGSTOP): it accepts connections and answers nothing.
func (s *KubernetesServer) Pause() { s.proc.pause() }

// Resume ends a Pause.
func (s *KubernetesServer) Resume() { s.proc.signal(syscall.SIGCONT) }

// Kubeconfig writes a kubeconfig for a user that the server was started with, and returns its
// path.
func (s *KubernetesServer) Kubeconfig(t testing.TB, user string) string {
	t.Helper()
	return s.As(user).Write(t)
}

// As gives what a kubeconfig for a user says, for tests that want it to say something else.
func (s *KubernetesServer) As(user string) Kubeconfig {
	return Kubeconfig{Server: "https://" + s.Addr, CA: s.CA, Token: KubernetesToken(user)}
}

// Kubeconfig is what a kubeconfig says.
type Kubeconfig struct {
	Server string // URL
	CA     string // PEM file; empty: the system's
	Token  string
	// TokenFile is the path of a file with the token, instead of Token.
	TokenFile string
}

// Write writes the kubeconfig into a file of the test's, and returns its path. Its context is
// named "test".
func (k Kubeconfig) Write(t testing.TB) string {
	t.Helper()
	credential := fmt.Sprintf("token: %q", k.Token)
	if k.TokenFile != "" {
		credential = fmt.Sprintf("tokenFile: %q", k.TokenFile)
	}
	ca := ""
	if k.CA != "" {
		ca = fmt.Sprintf(", certificate-authority: %q", k.CA)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, path, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
  - {name: test, cluster: {server: %q%s}}
users:
  - {name: test, user: {%s}}
contexts:
  - {name: test, context: {cluster: test, user: test}}
current-context: test
`, k.Server, ca, credential))
	return path
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newKey gives a fresh private key in PEM.
func newKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}
