//go:build real && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// httpParts is what holds on every way for HTTP callers.
var httpParts = []part{
	{"unary", (*way).httpUnary}, {"forms", (*way).httpForms}, {"bodies", (*way).httpBodies},
	{"pieces", (*way).httpPieces}, {"events", (*way).httpEvents}, {"statuses", (*way).httpStatuses},
	{"errors", (*way).httpErrors}, {"deadline", (*way).httpDeadline}, {"cancel", (*way).httpCancel},
}

func (s *way) httpUnary() {
	type call struct{ method, path, body, kind, want string }
	calls := []call{
		{"GET", "echo?x=1&y=a%20b", "", "text/x-ask", "GET /echo?x=1&y=a%20b "},
		{"GET", "echo", "", "", "GET /echo "},
		{"HEAD", "echo", "", "", ""},
		{"DELETE", "echo/a/b", "", "", "DELETE /echo/a/b "},
		{"OPTIONS", "echo", "", "", "OPTIONS /echo "},
		{"PATCH", "echo", `{"a":1}`, "application/merge-patch+json", `PATCH /echo {"a":1}`},
		{"POST", "echo?q=%C3%BC", "hello", "application/json; charset=utf-8", "POST /echo?q=%C3%BC hello"},
		{"POST", "echo", "", "text/x-ask", "POST /echo "},
		{"POST", "echo", "\x00\xff\xfe", "application/octet-stream", "POST /echo \x00\xff\xfe"},
		{"PUT", "echo", strings.Repeat("x", 5000), "text/x-ask", "PUT /echo " + strings.Repeat("x", 5000)},
	}
	for _, c := range calls {
		before := s.app.hits.Load()
		headers := []string{"X-Custom: 1", "X-Custom: ü", "Dapr-Caller-App-Id: spoofed", "farcall-timeout: 10s"}
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		if c.kind != "" {
			headers = append(headers, "Content-Type: "+c.kind)
		}
		a := s.call(c.method, c.path, body, headers...)
		if a.status != http.StatusOK || a.body != c.want || a.header.Get("Content-Type") != "text/x-echo" {
			s.t.Errorf("%s %s: %d %v %.100s, want %.100s", c.method, c.path, a.status, a.header, a.body, c.want)
		}
		if got := a.header.Values("X-App"); !slices.Equal(got, []string{"1", "ü"}) {
			s.t.Errorf("%s %s: the header X-Custom came back as %q", c.method, c.path, got)
		}
		if got := a.header.Get("X-Got-Type"); got != c.kind {
			s.t.Errorf("%s %s: the application got Content-Type %q, want %q", c.method, c.path, got, c.kind)
		}
		length := len(c.body)
		if s.buffers && c.method == http.MethodPost && length == 0 {
			length = -1 // a daprd 1.14 gives its application an empty body of unknown length
		}
		if got := a.header.Get("X-Got-Length"); got != fmt.Sprint(length) {
			s.t.Errorf("%s %s: the application got a body of length %s, want %d", c.method, c.path, got, length)
		}
		if got := a.header.Get("X-Caller"); got != s.caller {
			s.t.Errorf("%s %s: the caller is %q, want %q", c.method, c.path, got, s.caller)
		}
		if leaked := a.header.Values("X-Leaked"); len(leaked) > 0 {
			s.t.Errorf("%s %s: the application got %v", c.method, c.path, leaked)
		}
		if served := a.header.Get("Farcall-Served-By"); served == "" {
			s.t.Errorf("%s %s: nothing says who served it: %v", c.method, c.path, a.header)
		}
		if n := s.app.hits.Load() - before; n != 1 {
			s.t.Errorf("%s %s: the application was called %d times", c.method, c.path, n)
		}
	}
}

// httpForms: the application is named in a header, or as the user of a basic authentication.
func (s *way) httpForms() {
	for _, header := range []string{
		"dapr-app-id: " + s.web,
		"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("dapr-app-id:"+s.web)),
	} {
		a, err := s.get(s.ctx, http.MethodPost, "http://"+s.http+"/echo/a?b=c", strings.NewReader("hello"), header)
		if err != nil || a.status != http.StatusOK || a.body != "POST /echo/a?b=c hello" {
			s.t.Errorf("%s: %d %s %v", header, a.status, a.body, err)
		}
	}
}

func (s *way) httpBodies() {
	sum := sha256.Sum256(big)
	for _, c := range []struct {
		name   string
		body   io.Reader
		length int
	}{
		{"known length", bytes.NewReader(big), bigBody},
		{"chunked", io.NopCloser(struct{ io.Reader }{bytes.NewReader(big)}), -1},
	} {
		if a := s.call(http.MethodPost, "sum", c.body); a.body != fmt.Sprintf("%d %d %x", bigBody, c.length, sum) {
			s.t.Errorf("%s: %d %.200s", c.name, a.status, a.body)
		}
	}
	if a := s.call(http.MethodGet, "big", nil); sha256.Sum256([]byte(a.body)) != sum {
		s.t.Errorf("down: %d, %d bytes", a.status, len(a.body))
	}
}

// release lets the application go on with the rest of its answer.
func (s *way) release() {
	select {
	case s.app.more <- struct{}{}:
	case <-s.ctx.Done():
	}
}

// httpPieces: the first part of an answer arrives before the application has the rest.
func (s *way) httpPieces() {
	want := big[:2*piece]
	if s.buffers {
		// A daprd 1.14 next to the application waits for the whole answer.
		go s.release()
		if a := s.call(http.MethodGet, "pieces", nil); a.body != string(want) {
			s.t.Errorf("%d, %d bytes", a.status, len(a.body))
		}
		return
	}
	resp, err := s.ask(s.ctx, http.MethodGet, s.url(s.web, "pieces"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	// A daprd 1.14 next to the caller writes without flushing, so that the end of a part may stay behind.
	first := make([]byte, piece/2)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		s.t.Fatal(err)
	}
	s.release()
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(first, rest...), want) {
		s.t.Errorf("%d bytes: %v", len(first)+len(rest), err)
	}
}

// httpEvents: server-sent events arrive one by one.
func (s *way) httpEvents() {
	const one, two = "data: 1\n\n", "data: 2\n\n"
	if s.sidecar || s.buffers {
		// A daprd 1.14 knows no events: next to the caller it does not flush them, next to the
		// application it waits for the last.
		go s.release()
		a := s.call(http.MethodGet, "events", nil, "Accept: text/event-stream")
		if a.status != http.StatusOK || a.body != one+two || a.header.Get("Content-Type") != "text/event-stream" {
			s.t.Errorf("%d %v %q", a.status, a.header, a.body)
		}
		return
	}
	resp, err := s.ask(s.ctx, http.MethodGet, s.url(s.web, "events"), nil, "Accept: text/event-stream")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, len(one))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != one || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("%q %v %v", first, resp.Header, err)
	}
	s.release()
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != two {
		s.t.Errorf("%q %v", rest, err)
	}
}

func (s *way) httpStatuses() {
	for _, code := range []int{201, 204, 302, 400, 401, 403, 404, 418, 429, 500, 501, 503, 504} {
		before := s.app.hits.Load()
		a := s.call(http.MethodPost, fmt.Sprint("status/", code), strings.NewReader("x"))
		want := fmt.Sprint("status ", code)
		if code == http.StatusNoContent {
			want = ""
		}
		if a.status != code || a.body != want {
			s.t.Errorf("%d: %d %s", code, a.status, a.body)
		}
		if n := s.app.hits.Load() - before; n != 1 {
			s.t.Errorf("%d: the application was called %d times", code, n)
		}
	}
}

func (s *way) httpErrors() {
	post := func(app string, headers ...string) daprAnswer {
		a, err := s.get(s.ctx, http.MethodPost, s.url(app, "echo"), strings.NewReader("x"), headers...)
		if err != nil {
			s.t.Error(err)
		}
		if !strings.Contains(a.body, `"errorCode":`) || !strings.Contains(a.body, `"message":`) {
			s.t.Errorf("%s %v: not Dapr's error body: %d %s", app, headers, a.status, a.body)
		}
		return a
	}
	before, began := s.app.hits.Load(), time.Now()
	s.fails("an unknown application", post("nobody"), http.StatusNotFound, codes.NotFound)
	if took := time.Since(began); took > time.Second {
		s.t.Errorf("an unknown application took %v: daprd has tried again", took)
	}
	s.fails("an unknown strategy", post(s.web, "farcall-strategy: nearest"), http.StatusBadRequest, codes.InvalidArgument)
	s.fails("a bad timeout", post(s.web, "farcall-timeout: soon"), http.StatusBadRequest, codes.InvalidArgument)
	s.fails("no instance in that cluster", post("cart", "farcall-cluster: nowhere"), http.StatusBadRequest, codes.InvalidArgument)
	if n := s.app.hits.Load() - before; n != 0 {
		s.t.Errorf("the application was called %d times", n)
	}
}

// httpDeadline: the caller's ends the call, at the application too.
func (s *way) httpDeadline() {
	for name, body := range map[string]string{"no body": "", "a body": "hello"} {
		before, began := s.app.hits.Load(), time.Now()
		a := s.call(http.MethodPost, "wait", strings.NewReader(body), "farcall-timeout: 400ms")
		s.fails("a deadline, "+name, a, http.StatusGatewayTimeout, codes.DeadlineExceeded)
		if took := time.Since(began); took > 5*time.Second {
			s.t.Errorf("a deadline of 400ms took %v", took)
		}
		s.noticed(s.app.hits.Load, before, s.app.ended)
	}
}

// httpCancel: the application learns that its caller went away.
func (s *way) httpCancel() {
	ctx, cancel := context.WithCancel(s.ctx)
	before := s.app.hits.Load()
	gone := make(chan error, 1)
	go func() {
		_, err := s.get(ctx, http.MethodPost, s.url(s.web, "wait"), strings.NewReader("hello"))
		gone <- err
	}()
	s.arrives(s.app.hits.Load, before)
	cancel()
	if err := <-gone; err == nil {
		s.t.Error("the call was answered")
	}
	s.noticed(s.app.hits.Load, before, s.app.ended)
}
