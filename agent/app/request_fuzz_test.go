package app

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/farcall/farcall/agent/invoke"
)

// FuzzRequestOnTheWire writes calls as an application gets them. Each is one request and no more,
// for exactly the method and the query that were judged, with no header that says where it ends.
func FuzzRequestOnTheWire(f *testing.F) {
	for _, s := range []struct{ method, query, key, value, body string }{
		{"", "", "", "", ""},
		{"a/b", "x=1", "X-A", "1", "hello"},
		{"a b/%2F/\u00fc", "x=%20", "x_b", "\t1 ", ""},
		{"a!'()*;:@&=+$,[]b", "x= HTTP/1.1", "Host", "elsewhere", "x"},
		{"a", "x=1\r\nX: y", "X\r\nY", "1\r\nZ: 2", "x"},
		{"a//../b", "?", "Content-Length", "3", "hello"},
		{"a", "", "transfer-ENCODING", "chunked", "0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"},
		{"a", "", "Connection", "X-Secret, close", ""},
		{"a", "", "dapr_caller_app_id", "admin", ""},
		{"a", "", ":path", "/b", ""},
		{"*", "", "Upgrade", "websocket", ""},
		{"a", "", "Expect", "100-continue", "x"},
		{"\\..\\a", "a#b", "X-Some-Bin", "AAA=", ""},
	} {
		f.Add(s.method, s.query, s.key, s.value, s.body)
	}
	f.Fuzz(func(t *testing.T, method, query, key, value, body string) {
		m, err := invoke.NormalizeMethod(method)
		if err != nil || invoke.CheckQuery(query) != nil {
			return
		}
		r := &invoke.Request{
			Verb: http.MethodPost, Method: m, Query: query, ContentType: value, Head: []byte(body), Length: int64(len(body)),
			Header: invoke.Header{key: {value, "2"}, "X-Kept": {"1"}, invoke.CallerAppID: {"web"}},
		}
		req := httpRequest(t.Context(), Endpoint{Address: "127.0.0.1", Port: 80}, r)
		out, err := httputil.DumpRequestOut(req, true)
		if err != nil {
			t.Fatalf("%q?%q with %q: %q cannot be written: %v", m, query, key, value, err)
		}
		in := bufio.NewReader(bytes.NewReader(out))
		got, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		b, err := io.ReadAll(got.Body)
		if rest, _ := io.ReadAll(in); err != nil || len(rest) > 0 || string(b) != body {
			t.Fatalf("%q: body %q, %v, and %q after it", out, b, err, rest)
		}
		if got.URL.Path != "/"+m || got.URL.RawQuery != query || got.Host != "127.0.0.1:80" || got.Method != http.MethodPost {
			t.Fatalf("%q: %s %q %q %q", out, got.Method, got.Host, got.URL.Path, got.URL.RawQuery)
		}
		if got.ContentLength != int64(len(body)) || len(got.TransferEncoding) > 0 || len(got.Trailer) > 0 {
			t.Fatalf("%q: framed by %d, %q", out, got.ContentLength, got.TransferEncoding)
		}
		if v := got.Header["Dapr-Caller-App-Id"]; len(v) != 1 && !strings.EqualFold(key, "connection") || key != invoke.CallerAppID && len(v) == 1 && v[0] != "web" {
			t.Fatalf("%q: the caller is %q", out, v)
		}
		for k := range got.Header {
			if invoke.HopByHop(k) || invoke.ClaimsIdentity(k) && k != "Dapr-Caller-App-Id" && k != "Dapr-Caller-Namespace" && k != "Dapr-Callee-App-Id" {
				t.Fatalf("%q: %s reached the application", out, k)
			}
		}
	})
}

// TestTargetKeepsItsSpelling says which characters of a path are not escaped, as nobody else does.
func TestTargetKeepsItsSpelling(t *testing.T) {
	for method, want := range map[string]string{
		"Products(1)":        "/Products(1)",
		"a!b'c*d e%(f)/ü":    "/a!b'c*d%20e%25(f)/%C3%BC",
		"a+b;c=d,e:f@g$h&i~": "/a+b;c=d,e:f@g$h&i~",
		"%28":                "/%2528",
		"*":                  "/*",
	} {
		if got := target("http", "h", &invoke.Request{Method: method}).RequestURI(); got != want {
			t.Errorf("%q: got %q, want %q", method, got, want)
		}
	}
}
