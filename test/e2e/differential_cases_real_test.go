//go:build real && linux

package e2e

import (
	"fmt"
	"net/http"
	"strings"
)

// oddRequest is a request as it goes over the connection, but for what text adds.
type oddRequest struct {
	name    string
	line    string // verb and target
	headers []string
	body    string
}

func (o oddRequest) verb() string { v, _, _ := strings.Cut(o.line, " "); return v }

// text is the whole request: with a Host, and with the length of its body unless that says its own
// framing.
func (o oddRequest) text() string {
	head := o.line + " HTTP/1.1\r\n"
	all := strings.ToLower("\n" + strings.Join(o.headers, "\n"))
	if !strings.Contains(all, "\nhost:") {
		head += "Host: caller.example\r\n"
	}
	if o.body != "" && !strings.Contains(all, "\ntransfer-encoding:") && !strings.Contains(all, "\ncontent-length:") {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(o.body))
	}
	for _, h := range o.headers {
		head += h + "\r\n"
	}
	return head + "\r\n" + o.body
}

const (
	rec = "/v1.0/invoke/rec/method/"
	rpc = "/v1.0/invoke/rpc/method/"
)

var oddRequests = []oddRequest{
	{name: "GET", line: "GET " + rec + "x"},
	{name: "HEAD", line: "HEAD " + rec + "x"},
	{name: "POST without a body", line: "POST " + rec + "x"},
	{name: "POST of length 0", line: "POST " + rec + "x", headers: []string{"Content-Length: 0"}},
	{name: "POST", line: "POST " + rec + "x", headers: []string{"Content-Type: text/plain"}, body: "hello"},
	{name: "PUT", line: "PUT " + rec + "x", body: "hello"},
	{name: "PATCH", line: "PATCH " + rec + "x", body: "hello"},
	{name: "DELETE", line: "DELETE " + rec + "x"},
	{name: "DELETE with a body", line: "DELETE " + rec + "x", body: "hello"},
	{name: "GET with a body", line: "GET " + rec + "x", body: "hello"},
	{name: "OPTIONS", line: "OPTIONS " + rec + "x"},
	{name: "TRACE", line: "TRACE " + rec + "x"},
	{name: "CONNECT", line: "CONNECT " + rec + "x"},
	{name: "a verb of WebDAV", line: "PROPFIND " + rec + "x", body: "hello"},
	{name: "a verb in lower case", line: "patch " + rec + "x", body: "hello"},
	{name: "chunked", line: "POST " + rec + "x", headers: []string{"Transfer-Encoding: chunked"}, body: "5\r\nhello\r\n0\r\n\r\n"},
	{name: "chunked, empty", line: "POST " + rec + "x", headers: []string{"Transfer-Encoding: chunked"}, body: "0\r\n\r\n"},
	{name: "chunked, with a trailer", line: "POST " + rec + "x", headers: []string{"Transfer-Encoding: chunked", "Trailer: X-T"}, body: "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"},

	{name: "no method", line: "GET " + rec},
	{name: "no method, no slash", line: "GET /v1.0/invoke/rec/method"},
	{name: "path: trailing slash", line: "GET " + rec + "a/b/"},
	{name: "path: double slashes", line: "GET " + rec + "a//b"},
	{name: "path: leading double slash", line: "GET " + rec + "/a"},
	{name: "path: dots", line: "GET " + rec + "a/./b/../c"},
	{name: "path: dots beyond the top", line: "GET " + rec + "../../../c"},
	{name: "blank", line: "GET " + rec + "a%20b"},
	{name: "plus", line: "GET " + rec + "a+b"},
	{name: "path: escaped plus", line: "GET " + rec + "a%2Bb"},
	{name: "path: escaped slash", line: "GET " + rec + "a%2Fb"},
	{name: "path: escaped slash and dots", line: "GET " + rec + "a%2F..%2Fb"},
	{name: "refused: hash", line: "GET " + rec + "a%23b"},
	{name: "refused: question mark", line: "GET " + rec + "a%3Fb"},
	{name: "escaped NUL", line: "GET " + rec + "a%00b"},
	{name: "escaped percent", line: "GET " + rec + "100%25"},
	{name: "path: escaped escape", line: "GET " + rec + "a%2520b"},
	{name: "path: escaped letter", line: "GET " + rec + "%61b"},
	{name: "path: escapes in lower case", line: "GET " + rec + "%c3%bc"},
	{name: "raw UTF-8", line: "GET " + rec + "\u00fc"},
	{name: "reserved characters", line: "GET " + rec + "a:b@c;d=e,f!g$h&i'j(k)l*m~n_o"},
	{name: "brackets", line: "GET " + rec + "a%5Bb%5D%7Bc%7D%7C%5E%60%22%3C%3E%5C"},
	{name: "method in the method", line: "GET " + rec + "a/method/b"},
	{name: "query", line: "GET " + rec + "x?a=1&b=2&a=3"},
	{name: "query, empty", line: "GET " + rec + "x?"},
	{name: "query with odd escapes", line: "GET " + rec + "x?a=%20&b=+&c=%2F%2f&d=%zz&e=%&f=;g&h=[1]&%41=%c3%bc&=&&"},
	{name: "query with a question mark", line: "GET " + rec + "x?a=1?b=2"},
	{name: "query with a path", line: "GET " + rec + "x?a=/../b//c"},
	{name: "query without a method", line: "GET " + rec + "?a=1"},
	{name: "absolute form", line: "GET http://other.example" + rec + "x?a=1"},
	{name: "no such path", line: "GET /v2.0/invoke/rec/method/x"},
	{name: "no application", line: "GET /v1.0/invoke//method/x"},

	{name: "by header", line: "GET /a/b?c=d", headers: []string{"dapr-app-id: rec"}},
	{name: "by header, odd case", line: "GET /a/b", headers: []string{"DAPR-app-ID: rec"}},
	{name: "by header, root", line: "GET /", headers: []string{"dapr-app-id: rec"}},
	{name: "by header, odd path", line: "GET //a//b/../c/", headers: []string{"dapr-app-id: rec"}},
	{name: "by header, escaped", line: "GET /a%20b%2Fc", headers: []string{"dapr-app-id: rec"}},
	{name: "by header, over a path", line: "GET /v1.0/invoke/other/method/x", headers: []string{"dapr-app-id: rec"}},
	{name: "by basic authentication", line: "GET /a/b", headers: []string{"Authorization: Basic ZGFwci1hcHAtaWQ6cmVj"}},
	{name: "escaped app-id", line: "GET /v1.0/invoke/r%65c/method/x"},
	{name: "app-id with its namespace", line: "GET /v1.0/invoke/rec.default/method/x"},

	{name: "headers in odd case", line: "GET " + rec + "x", headers: []string{"x-lower: 1", "X-UPPER: 2", "x-MiXed-cAse: 3", "ETAG: 4"}},
	{name: "headers with odd names", line: "GET " + rec + "x", headers: []string{"X_Under_Score: 1", "X.Dot: 2", "X!#$%&'*+^`|~: 3", "grpc-timeout: 1H", "grpc-mine: 4"}},
	{name: "repeated headers", line: "GET " + rec + "x", headers: []string{"X-R: 1", "X-R: 2", "x-r: 1", "X-R: a, b", "X-Empty:"}},
	{name: "values", line: "GET " + rec + "x", headers: []string{"X-Tab: a\tb", "X-Utf: \u00fc", "X-Quoted: \"a, b\"", "X-Spaces:   a  b  "}},
	{name: "Latin-1", line: "GET " + rec + "x", headers: []string{"X-Latin: \xfc"}},
	{name: "binary", line: "GET " + rec + "x", headers: []string{"X-Some-Bin: aGVsbG8=", "x-bad-bin: ***"}},
	{name: "content types", line: "POST " + rec + "x", headers: []string{"Content-Type: text/plain", "Content-Type: text/html"}, body: "x"},
	{name: "content type, odd", line: "POST " + rec + "x", headers: []string{"Content-Type: text/plain; charset=\"UTF-8\" ; x=\"y;z\""}, body: "x"},
	{name: "content type of gRPC", line: "POST " + rec + "x", headers: []string{"Content-Type: application/grpc"}, body: "x"},
	{name: "content encoding", line: "POST " + rec + "x", headers: []string{"Content-Encoding: gzip", "Content-Language: de", "Content-Md5: x"}, body: "x"},
	{name: "cookies", line: "GET " + rec + "x", headers: []string{"Cookie: a=1; b=2", "Cookie: c=3"}},
	{name: "host", line: "GET " + rec + "x", headers: []string{"Host: shop.example:8080"}},
	{name: "user agent", line: "GET " + rec + "x", headers: []string{"User-Agent: mine/1.0"}},
	{name: "authorization", line: "GET " + rec + "x", headers: []string{"Authorization: Bearer abc", "Proxy-Authorization: Basic eDp5"}},
	{name: "accept", line: "GET " + rec + "x", headers: []string{"Accept: text/html, */*;q=0.1", "Accept-Encoding: gzip, br", "Accept-Language: de", "Accept-Charset: utf-8"}},
	{name: "conditions", line: "GET " + rec + "x", headers: []string{"If-None-Match: \"a\"", "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT", "Range: bytes=0-1", "Cache-Control: no-cache", "Pragma: no-cache"}},
	{name: "forwarded", line: "GET " + rec + "x", headers: []string{"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: h", "Forwarded: for=1.2.3.4", "X-Forwarded-Proto: https", "Via: 1.1 p", "Max-Forwards: 3"}},
	{name: "hop by hop", line: "GET " + rec + "x", headers: []string{"Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: 5", "TE: trailers", "Upgrade: h2c", "Proxy-Connection: keep-alive", "HTTP2-Settings: x"}},
	{name: "trace", line: "GET " + rec + "x", headers: []string{"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "tracestate: a=1,b=2", "baggage: k=v,l=w", "baggage: m=n"}},
	{name: "trace, bad", line: "GET " + rec + "x", headers: []string{"traceparent: nonsense", "tracestate: ,,"}},
	{name: "trace, old", line: "GET " + rec + "x", headers: []string{"X-B3-Traceid: 1", "grpc-trace-bin: AAA="}},
	{name: "identity", line: "GET " + rec + "x", headers: []string{"dapr-caller-app-id: admin", "Dapr-Callee-App-Id: admin", "destination-app-id: other", "Dapr-Caller-Namespace: kube-system", "dapr-api-token: secret", "dapr-stream: true", "Dapr-Mine: 1"}},
	{name: "idempotency key", line: "POST " + rec + "x", headers: []string{"Idempotency-Key: 1", "X-Request-Id: 2", "X-Correlation-Id: 3"}, body: "x"},
	{name: "expect", line: "POST " + rec + "x", headers: []string{"Expect: 100-continue"}, body: "hello"},
	{name: "expect, unknown", line: "POST " + rec + "x", headers: []string{"Expect: miracle"}, body: "hello"},
	{name: "upgrade", line: "GET " + rec + "x", headers: []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}},

	{name: "answer 201", line: "POST " + rec + "x", headers: []string{"X-Answer: 201"}, body: "x"},
	{name: "answer 204", line: "POST " + rec + "x", headers: []string{"X-Answer: 204"}, body: "x"},
	{name: "answer 204 to GET", line: "GET " + rec + "x", headers: []string{"X-Answer: 204"}},
	{name: "answer 304", line: "GET " + rec + "x", headers: []string{"X-Answer: 304"}},
	{name: "answer 302", line: "GET " + rec + "x", headers: []string{"X-Answer: 302"}},
	{name: "answer 307", line: "POST " + rec + "x", headers: []string{"X-Answer: 307"}, body: "x"},
	{name: "answer 400", line: "GET " + rec + "x", headers: []string{"X-Answer: 400"}},
	{name: "answer 404", line: "GET " + rec + "x", headers: []string{"X-Answer: 404"}},
	{name: "answer 418", line: "GET " + rec + "x", headers: []string{"X-Answer: 418"}},
	{name: "answer 500", line: "GET " + rec + "x", headers: []string{"X-Answer: 500"}},
	{name: "answer 503", line: "GET " + rec + "x", headers: []string{"X-Answer: 503"}},
	{name: "answer 599", line: "GET " + rec + "x", headers: []string{"X-Answer: 599"}},
	{name: "answer 999", line: "GET " + rec + "x", headers: []string{"X-Answer: 999"}},
	{name: "answer to HEAD", line: "HEAD " + rec + "x", headers: []string{"X-Answer: length"}},
	{name: "answer with a length", line: "GET " + rec + "x", headers: []string{"X-Answer: length"}},
	{name: "answer in chunks", line: "GET " + rec + "x", headers: []string{"X-Answer: chunks"}},
	{name: "answer, empty", line: "GET " + rec + "x", headers: []string{"X-Answer: empty"}},
	{name: "answer without a type", line: "GET " + rec + "x", headers: []string{"X-Answer: no type"}},
	{name: "answer's headers", line: "GET " + rec + "x", headers: []string{"X-Answer: headers"}},
	{name: "answer's hop by hop", line: "GET " + rec + "x", headers: []string{"X-Answer: hop by hop"}},
	{name: "answer's trailer", line: "GET " + rec + "x", headers: []string{"X-Answer: trailer"}},
	{name: "answer in a coding", line: "GET " + rec + "x", headers: []string{"X-Answer: coding", "Accept-Encoding: gzip"}},
	{name: "early hints", line: "GET " + rec + "x", headers: []string{"X-Answer: early hints"}},

	{name: "HTTP to gRPC", line: "POST " + rpc + "a%20b/c?d=e", headers: []string{"Content-Type: text/plain", "X-A: 1", "X-A: 2", "Accept: */*", "Cookie: a=1", "Authorization: Bearer x", "User-Agent: mine", "Accept-Encoding: gzip"}, body: "hello"},
	{name: "HTTP to gRPC, no body", line: "GET " + rpc + "x"},
	{name: "HTTP to gRPC, binary", line: "GET " + rpc + "x", headers: []string{"X-Some-Bin: aGVsbG8="}},
	{name: "HTTP to gRPC, typed answer", line: "GET " + rpc + "x", headers: []string{"X-Answer: typed"}},
	{name: "HTTP to gRPC, its headers", line: "GET " + rpc + "x", headers: []string{"X-Answer: headers"}},
	{name: "HTTP to gRPC, its error", line: "GET " + rpc + "x", headers: []string{"X-Answer: error"}},
	{name: "HTTP to gRPC, its refusal", line: "GET " + rpc + "x", headers: []string{"X-Answer: unavailable"}},
	{name: "HTTP to gRPC, its odd code", line: "GET " + rpc + "x", headers: []string{"X-Answer: 42"}},
}

func answers(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Mine", "1")
		if code/100 == 3 {
			w.Header().Set("Location", "http://elsewhere.example/")
		}
		w.WriteHeader(code)
		if code != http.StatusNoContent && code != http.StatusNotModified {
			fmt.Fprintf(w, "my %d", code)
		}
	}
}

// says makes an answer of headers and a body. A nil header is none, rather than what net/http would
// say of itself.
func says(body string, header http.Header) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for k, v := range header {
			w.Header()[k] = v
		}
		fmt.Fprint(w, body)
	}
}

// oddAnswers are what the recorder answers.
var oddAnswers = map[string]func(http.ResponseWriter, *http.Request){
	"201": answers(201), "204": answers(204), "304": answers(304), "302": answers(302), "307": answers(307), "400": answers(400),
	"404": answers(404), "418": answers(418), "500": answers(500), "503": answers(503), "599": answers(599), "999": answers(999),
	"length":  says("hello", http.Header{"Content-Length": {"5"}}),
	"empty":   says("", http.Header{"Content-Type": nil}),
	"no type": says("<html>", http.Header{"Content-Type": nil}),
	"headers": says("hello", http.Header{
		"Content-Type": {"text/plain", "text/html"}, "Set-Cookie": {"a=1; Path=/", "b=2; HttpOnly"}, "x-lower": {"1"},
		"X-R": {"1", "2", "a, b"}, "X-Empty": {""}, "X-Utf": {"\u00fc"}, "X-Some-Bin": {"aGVsbG8="}, "Grpc-Status": {"3"},
		"Server": {"mine"}, "Etag": {`"x"`}, "Cache-Control": {"no-store"}, "Www-Authenticate": {"Basic"},
		"Traceparent":       {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"Farcall-Served-By": {"a/lie"}, "Dapr-Caller-App-Id": {"x"},
	}),
	"hop by hop": says("hello", http.Header{
		"Connection": {"X-Secret"}, "X-Secret": {"1"}, "Keep-Alive": {"5"}, "Proxy-Authenticate": {"Basic"}, "Upgrade": {"h2c"},
	}),
	"coding": says("not really", http.Header{"Content-Encoding": {"gzip"}}),
	"chunks": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for range 3 {
			fmt.Fprint(w, "hello")
			_ = http.NewResponseController(w).Flush() // a caller that is gone ends the test by itself
		}
	},
	"trailer": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Trailer", "X-T")
		fmt.Fprint(w, "hello")
		w.Header().Set("X-T", "1")
	},
	"early hints": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "hello")
	},
}
