//go:build real && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/internal/testkit"
)

// way is one way from a caller to the applications of the suite. Who the caller speaks to, and who
// speaks to the applications, may be a daprd or an agent.
type way struct {
	t    *testing.T
	ctx  context.Context
	w    *world
	app  *daprApp
	rpc  *grpcApp
	web  string // app-id of app
	sale string // app-id of rpc
	http string // host:port of the HTTP API that the caller calls
	conn *grpc.ClientConn
	// sidecar says that the caller speaks to a daprd, which makes one status of all errors.
	sidecar bool
	// buffers says that a daprd is next to the application: it takes in the whole answer of an HTTP
	// application before it passes on the first byte.
	buffers bool
	caller  string // whom the applications take for the caller
	// marks is what a proxied call tells the application of ours: a daprd passes on what an agent told
	// it.
	marks []string
}

// dial gives a connection that ends with the test.
func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *way) url(app, path string) string {
	return "http://" + s.http + "/v1.0/invoke/" + app + "/method/" + path
}

type daprAnswer struct {
	status int
	header http.Header
	body   string
}

// ask makes a call; headers are "key: value".
func (s *way) ask(ctx context.Context, method, url string, body io.Reader, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	return s.w.client.Do(req)
}

// get makes a call and reads its answer.
func (s *way) get(ctx context.Context, method, url string, body io.Reader, headers ...string) (daprAnswer, error) {
	resp, err := s.ask(ctx, method, url, body, headers...)
	if err != nil {
		return daprAnswer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return daprAnswer{resp.StatusCode, resp.Header, string(b)}, err
}

// call is get for a method of the HTTP application, that has to be answered.
func (s *way) call(method, path string, body io.Reader, headers ...string) daprAnswer {
	s.t.Helper()
	a, err := s.get(s.ctx, method, s.url(s.web, path), body, headers...)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, path, err)
	}
	return a
}

// ready waits until calls go all the way, to both applications.
func (s *way) ready() {
	s.t.Helper()
	testkit.Eventually(s.t, s.ctx, s.web+" is ready", func() error {
		a, err := s.get(s.ctx, http.MethodGet, s.url(s.web, "echo"), nil)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	if s.sale == "" {
		return
	}
	testkit.Eventually(s.t, s.ctx, s.sale+" is ready", func() error {
		_, err := s.unary(s.ctx, s.sale, "ready")
		return err
	})
}

// fails checks an answer that no application gave.
func (s *way) fails(what string, a daprAnswer, want int, code codes.Code) {
	s.t.Helper()
	if s.sidecar {
		// daprd says 500 for whatever its peer said, and that in words.
		want = http.StatusInternalServerError
		if !strings.Contains(a.body, "code = "+code.String()) {
			s.t.Errorf("%s: %s does not say %v", what, a.body, code)
		}
	}
	if a.status != want {
		s.t.Errorf("%s: %d %s, want %d", what, a.status, a.body, want)
	}
}

// at is the way for a part of the test, with a context of its own.
func (s *way) at(t *testing.T) *way {
	t.Helper()
	of := *s
	of.t, of.ctx = t, testkit.Context(t)
	return &of
}

// part is one part of the suite.
type part struct {
	name string
	is   func(*way)
}

// each runs parts one after the other, as tests of their own.
func (s *way) each(parts ...part) {
	for _, p := range parts {
		s.t.Run(p.name, func(t *testing.T) {
			p.is(s.at(t))
		})
	}
}

// arrives waits until an application was called more often than before.
func (s *way) arrives(hits func() int64, before int64) {
	s.t.Helper()
	testkit.Eventually(s.t, s.ctx, "the call arrives", func() error {
		if hits() == before {
			return errors.New("not called")
		}
		return nil
	})
}

// noticed checks that an application was called once since before, and that this call has ended.
func (s *way) noticed(hits func() int64, before int64, ended <-chan struct{}) {
	s.t.Helper()
	select {
	case <-ended:
	case <-s.ctx.Done():
		s.t.Fatal("the application never learns that its caller went away")
	}
	if n := hits() - before; n != 1 {
		s.t.Errorf("the application was called %d times", n)
	}
}
