package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

// seen is what the agent was asked.
type seen struct {
	method, uri, body, strategy, cluster, timeout, custom, token string
	length                                                       int64
}

// agentFace answers /v1.0/invoke as an agent does: an application echo answers with what it was
// asked, other names with the errors that an agent gives.
func agentFace(last *seen) http.Handler {
	refuse := func(w http.ResponseWriter, code int, word, message string) {
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"errorCode":%q,"message":%q}`, word, message)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1.0/invoke/{app}/method/{method...}", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*last = seen{
			method: r.Method, uri: r.RequestURI, body: string(b), length: r.ContentLength, strategy: r.Header.Get("farcall-strategy"),
			cluster: r.Header.Get("farcall-cluster"), timeout: r.Header.Get("farcall-timeout"), custom: strings.Join(r.Header.Values("x-custom"), "|"),
			token: strings.Join(r.Header.Values("dapr-api-token"), "|"),
		}
		switch r.PathValue("app") {
		case "none":
			refuse(w, http.StatusNotFound, "ERR_DIRECT_INVOKE", "no cluster knows default/none")
			return
		case "bad":
			refuse(w, http.StatusBadRequest, "ERR_BAD_STRATEGY", "unknown strategy")
			return
		case "denied":
			refuse(w, http.StatusForbidden, "ERR_DENIED", "override denied")
			return
		case "away":
			refuse(w, http.StatusServiceUnavailable, "ERR_DIRECT_INVOKE", "NO_LOCAL_INSTANCES")
			return
		case "slow":
			refuse(w, http.StatusGatewayTimeout, "ERR_DIRECT_INVOKE", "deadline")
			return
		case "unsure":
			refuse(w, http.StatusBadGateway, "ERR_DIRECT_INVOKE", "OUTCOME_UNKNOWN")
			return
		case "mute":
			w.WriteHeader(http.StatusBadGateway)
			return
		case "hang":
			<-r.Context().Done()
			return
		case "break":
			w.Header().Set("content-length", "100")
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("farcall-served-by", "west/cart-1")
		w.Header().Set("farcall-strategy", "external-first")
		w.Header().Set("farcall-attempts", "2")
		switch r.PathValue("method") {
		case "why":
			w.Header().Set("farcall-tier", "west")
			w.Header().Set("farcall-reason", "policy service default/cart: external-first: 2 of 2 available")
		case "fail":
			w.WriteHeader(http.StatusNotFound)
		case "move":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "bytes":
			_, _ = w.Write([]byte{0xff, 0})
		case "all":
			w.WriteHeader(http.StatusMultiStatus)
		default:
			_, _ = io.WriteString(w, "hello "+r.Method)
		}
	})
	return mux
}

// startAgent serves agentFace on loopback.
func startAgent(t *testing.T, last *seen) (address string) {
	t.Helper()
	s := httptest.NewServer(agentFace(last))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestCallSendsWhatItWasTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got seen
	agent := startAgent(t, &got)
	for _, c := range []struct {
		name  string
		args  []string
		stdin string
		want  seen
	}{
		{name: "plain", args: []string{"cart", "items/1"}, want: seen{method: "GET", uri: "/v1.0/invoke/cart/method/items/1"}},
		{name: "query", args: []string{"cart.shop", "/items?q=a%20b&x=1"}, want: seen{method: "GET", uri: "/v1.0/invoke/cart.shop/method/items?q=a%20b&x=1"}},
		{name: "escaped", args: []string{"a/b", "x%2Fy"}, want: seen{method: "GET", uri: "/v1.0/invoke/a%2Fb/method/x%2Fy"}},
		{name: "data", args: []string{"cart", "m", "-d", "{}"}, want: seen{method: "POST", uri: "/v1.0/invoke/cart/method/m", body: "{}", length: 2}},
		{name: "empty data", args: []string{"cart", "m", "-d", ""}, want: seen{method: "POST", uri: "/v1.0/invoke/cart/method/m"}},
		{name: "verb", args: []string{"cart", "m", "-X", "PUT", "-d", "x"}, want: seen{method: "PUT", uri: "/v1.0/invoke/cart/method/m", body: "x", length: 1}},
		{name: "file", args: []string{"cart", "m", "-d", "@" + file}, want: seen{method: "POST", uri: "/v1.0/invoke/cart/method/m", body: "from a file", length: 11}},
		{name: "stdin", args: []string{"cart", "m", "-d", "@-"}, stdin: "piped", want: seen{method: "POST", uri: "/v1.0/invoke/cart/method/m", body: "piped", length: 5}},
		{name: "headers", args: []string{"cart", "m", "-H", "x-custom: a: b", "-H", "X-Custom:c"},
			want: seen{method: "GET", uri: "/v1.0/invoke/cart/method/m", custom: "a: b|c"}},
		{name: "choices", args: []string{"cart", "m", "--strategy", "local-only", "--cluster", "west", "--timeout", "1500ms"},
			want: seen{method: "GET", uri: "/v1.0/invoke/cart/method/m", strategy: "local-only", cluster: "west", timeout: "1.5s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := farcall(t, c.stdin, append([]string{"--agent", agent, "call"}, c.args...)...)
			r.want(t, exitOK)
			if r.stdout != "hello "+c.want.method {
				t.Errorf("stdout %q", r.stdout)
			}
			if want := "200 OK, served by west/cart-1, strategy external-first, attempts 2\n"; r.stderr != want {
				t.Errorf("stderr %q, want %q", r.stderr, want)
			}
			if got != c.want {
				t.Errorf("the agent saw %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestCallShowsItsToken says that the token of the environment is shown, unless the call has one.
func TestCallShowsItsToken(t *testing.T) {
	var got seen
	agent := startAgent(t, &got)
	t.Setenv("DAPR_API_TOKEN", "secret")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "secret"},
		{[]string{"-H", "Dapr-Api-Token: other"}, "other"},
	} {
		farcall(t, "", append([]string{"--agent", agent, "call", "cart", "m"}, c.args...)...).want(t, exitOK)
		if got.token != c.want {
			t.Errorf("%q: the agent was shown %q, want %q", c.args, got.token, c.want)
		}
	}
	t.Setenv("DAPR_API_TOKEN", "two\nlines")
	farcall(t, "", "--agent", agent, "call", "cart", "m").want(t, exitUsage)
}

func TestExitCodesOfCalls(t *testing.T) {
	var got seen
	agent := startAgent(t, &got)
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		words  []string
	}{
		{"cart all", exitOK, "", []string{"207 Multi-Status"}},
		{"cart fail", exitFailed, "", []string{"404 Not Found, served by west/cart-1", "farcall: call cart: west/cart-1 answered 404 Not Found"}},
		{"cart move", exitFailed, `<a href="/elsewhere">Found</a>.` + "\n\n", []string{"answered 302 Found"}},
		{"none m", exitRefused, `{"errorCode":"ERR_DIRECT_INVOKE","message":"no cluster knows default/none"}`,
			[]string{"farcall: call none: 404 Not Found: ERR_DIRECT_INVOKE: no cluster knows default/none"}},
		{"bad m", exitRefused, `{"errorCode":"ERR_BAD_STRATEGY","message":"unknown strategy"}`, []string{"400 Bad Request"}},
		{"denied m", exitRefused, `{"errorCode":"ERR_DENIED","message":"override denied"}`, []string{"403 Forbidden"}},
		{"away m", exitUnavailable, `{"errorCode":"ERR_DIRECT_INVOKE","message":"NO_LOCAL_INSTANCES"}`, []string{"503 Service Unavailable", "NO_LOCAL_INSTANCES"}},
		{"slow m", exitDeadline, `{"errorCode":"ERR_DIRECT_INVOKE","message":"deadline"}`, []string{"504 Gateway Timeout"}},
		{"unsure m", exitFailed, `{"errorCode":"ERR_DIRECT_INVOKE","message":"OUTCOME_UNKNOWN"}`, []string{"OUTCOME_UNKNOWN"}},
		{"mute m", exitFailed, "", []string{"farcall: call mute: 502 Bad Gateway\n"}},
		{"break m", exitFailed, "half", []string{"call break: the answer broke off"}},

		{"cart", exitUsage, "", []string{"accepts 2 arg(s), received 1"}},
		{"cart m#x", exitUsage, "", []string{"a method without #"}},
		{"cart m%zz", exitUsage, "", []string{"invalid URL escape"}},
		{"cart m -X G(T", exitUsage, "", []string{"invalid method"}},
		{"cart m -H nocolon", exitUsage, "", []string{`--header "nocolon": want 'name: value'`}},
		{"cart m -H a(b:c", exitUsage, "", []string{"--header"}},
		{"cart m -d @/does/not/exist", exitUsage, "", []string{"--data: open /does/not/exist"}},
		{"cart m --timeout -1s", exitUsage, "", []string{"--timeout -1s is below 0"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			r := farcall(t, "", append([]string{"--agent", agent, "call"}, strings.Fields(c.args)...)...)
			r.want(t, c.code, c.words...)
			if r.stdout != c.stdout {
				t.Errorf("stdout %q, want %q", r.stdout, c.stdout)
			}
		})
	}
}

func TestCallSaysWhy(t *testing.T) {
	var got seen
	agent := startAgent(t, &got)
	r := farcall(t, "", "--agent", agent, "call", "cart", "why")
	r.want(t, exitOK)
	if want := `200 OK, served by west/cart-1, strategy external-first, tier west, attempts 2
because: policy service default/cart: external-first: 2 of 2 available
`; r.stderr != want {
		t.Errorf("stderr %q, want %q", r.stderr, want)
	}
	r = farcall(t, "", "--agent", agent, "call", "cart", "why", "-o", "json")
	r.want(t, exitOK)
	var e envelope
	if err := json.Unmarshal([]byte(r.stdout), &e); err != nil || e.Tier != "west" || !strings.HasPrefix(e.Reason, "policy service default/cart: ") {
		t.Errorf("%v: %s", err, r.stdout)
	}
}

func TestCallAsOneObject(t *testing.T) {
	var got seen
	agent := startAgent(t, &got)
	r := farcall(t, "", "--agent", agent, "call", "cart", "hi", "-o", "json")
	r.want(t, exitOK)
	var e envelope
	if err := json.Unmarshal([]byte(r.stdout), &e); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	if e.Headers.Get("farcall-attempts") != "2" {
		t.Errorf("headers are %v", e.Headers)
	}
	e.Headers = nil
	if want := (envelope{Status: 200, ServedBy: "west/cart-1", Strategy: "external-first", Attempts: "2", Body: "hello GET"}); !reflect.DeepEqual(e, want) {
		t.Errorf("got %+v, want %+v", e, want)
	}
	if r.stderr != "" {
		t.Errorf("stderr %q", r.stderr)
	}

	r = farcall(t, "", "--agent", agent, "call", "cart", "bytes", "-o", "yaml")
	r.want(t, exitOK)
	e = envelope{}
	if err := json.Unmarshal(fromYAML(t, r.stdout), &e); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	if !slices.Equal(e.BodyBase64, []byte{0xff, 0}) || e.Body != "" {
		t.Errorf("bytes that are no text came as %+v", e)
	}

	r = farcall(t, "", "--agent", agent, "call", "away", "hi", "-o", "json")
	r.want(t, exitUnavailable, "NO_LOCAL_INSTANCES")
	if !strings.Contains(r.stdout, `"status": 503`) {
		t.Errorf("stdout %s", r.stdout)
	}
}

func TestCallOverAUnixSocket(t *testing.T) {
	var got seen
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(agentFace(&got))
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	r := farcall(t, "", "--agent", "unix://"+socket, "call", "cart", "hi")
	r.want(t, exitOK, "served by west/cart-1")
	if r.stdout != "hello GET" {
		t.Errorf("stdout %q", r.stdout)
	}
	farcall(t, "", "--agent", "unix://"+socket+".none", "call", "cart", "hi").want(t, exitUnreachable, "is an agent running at unix://")
}

func TestNobodyAtAgent(t *testing.T) {
	agent := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	r := farcall(t, "", "--agent", agent, "call", "cart", "hi")
	r.want(t, exitUnreachable, "call cart: nobody answers at "+agent, "hint: is an agent running at "+agent+"? --agent says where to call")
	if r.stdout != "" {
		t.Errorf("stdout %q", r.stdout)
	}
}

func TestInterruptedCall(t *testing.T) {
	var got seen
	agent := startAgent(t, &got)
	ctx, interrupt := context.WithCancel(testkit.Context(t))
	interrupt()
	var stdout, stderr buffer
	if code := execute(ctx, []string{"--agent", agent, "call", "hang", "x"}, strings.NewReader(""), &stdout, &stderr); code != exitInterrupted {
		t.Errorf("exit code %d, stderr %s", code, stderr.String())
	}
}

// The agent keeps the deadline; one that does not is not waited for without end.
func TestCallThatNobodyAnswers(t *testing.T) {
	var got seen
	agent := startAgent(t, &got)
	r := farcall(t, "", "--agent", agent, "call", "hang", "x", "--timeout", "1ms")
	r.want(t, exitDeadline, "did not answer in time")
}
