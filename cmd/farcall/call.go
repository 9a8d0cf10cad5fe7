package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpguts"
)

// Headers of a call, as the agent's HTTP face takes and gives them.
const (
	headerStrategy = "farcall-strategy"
	headerCluster  = "farcall-cluster"
	headerTimeout  = "farcall-timeout"
	headerServedBy = "farcall-served-by"
	headerAttempts = "farcall-attempts"
	headerTier     = "farcall-tier"
	headerReason   = "farcall-reason"
	// The token that an agent may demand is in the environment of Dapr's applications and SDKs.
	headerToken   = "dapr-api-token"
	tokenVariable = "DAPR_API_TOKEN"
)

const (
	dialTimeout = 5 * time.Second
	// callGrace is how much longer than --timeout an answer is waited for: the agent keeps the
	// deadline, and its own word on it says more than a broken connection.
	callGrace = time.Second
	// maxErrorBody bounds what is read of an agent's error to say it in words.
	maxErrorBody = 64 << 10
)

// callFlags are the flags of one call.
type callFlags struct {
	verb, data, strategy, cluster string
	hasData                       bool // an empty body is one, too
	headers                       []string
	timeout                       time.Duration
}

func (c *cli) callCommand() *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:   "call <app> <method>",
		Short: "Call an application through an agent",
		Long: "Calls a method of an application over HTTP, through the agent at --agent. The body of the answer goes to stdout as it is;\n" +
			"who served it goes to stderr. With -o json or yaml all of it goes to stdout as one object.\n\n" +
			"The application is an app-id, or app-id.namespace. The method is a path, with a query where it needs one.\n" +
			"Where the environment has DAPR_API_TOKEN, the call shows it to the agent.",
		Example: "  farcall call cart items/1\n  farcall call cart.shop items -d '{\"id\": 1}' -H 'content-type: application/json' --strategy external-first",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.hasData = cmd.Flags().Changed("data")
			ctx := cmd.Context()
			if f.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, f.timeout+callGrace)
				defer cancel()
			}
			req, err := c.callRequest(ctx, f, args[0], args[1])
			if err != nil {
				return err
			}
			return c.call(req, "call "+args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.verb, "request", "X", "", "HTTP verb (default GET, with data POST)")
	flags.StringVarP(&f.data, "data", "d", "", "body to send: text, @file, or @- for stdin")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "header to send, as 'name: value'; may be repeated")
	flags.StringVar(&f.strategy, "strategy", "", "cluster strategy of this call")
	flags.StringVar(&f.cluster, "cluster", "", "the only cluster that this call may go to")
	flags.DurationVar(&f.timeout, "timeout", 0, "deadline of the call, for example 500ms; 0 is none")
	return cmd
}

// callRequest builds the request. All that can be wrong about it is the command line's fault.
func (c *cli) callRequest(ctx context.Context, f callFlags, app, method string) (*http.Request, error) {
	if app == "" || strings.Contains(method, "#") {
		return nil, usagef("want an app-id, and a method without # (written %%23)")
	}
	host := c.agent
	if strings.HasPrefix(host, "unix:") {
		host = "localhost" // the socket is dialled whatever the URL says
	}
	var body io.Reader
	verb := cmp.Or(f.verb, http.MethodGet)
	if f.hasData {
		b, err := c.readData(f.data)
		if err != nil {
			return nil, err
		}
		body, verb = bytes.NewReader(b), cmp.Or(f.verb, http.MethodPost)
	}
	target := "http://" + host + "/v1.0/invoke/" + url.PathEscape(app) + "/method/" + strings.TrimPrefix(method, "/")
	req, err := http.NewRequestWithContext(ctx, verb, target, body)
	if err != nil {
		return nil, usagef("%w", err)
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, usagef("--header %q: want 'name: value'", h)
		}
		req.Header.Add(name, value)
	}
	if token := os.Getenv(tokenVariable); token != "" && req.Header.Get(headerToken) == "" {
		if !httpguts.ValidHeaderFieldValue(token) {
			return nil, usagef("%s cannot stand in a header", tokenVariable)
		}
		req.Header.Set(headerToken, token)
	}
	if f.timeout < 0 {
		return nil, usagef("--timeout %s is below 0", f.timeout)
	}
	for name, value := range map[string]string{headerStrategy: f.strategy, headerCluster: f.cluster} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if f.timeout > 0 {
		req.Header.Set(headerTimeout, f.timeout.String())
	}
	return req, nil
}

// readData gives the body that -d means. It is read whole, so that its length is known and
// reaches the application.
func (c *cli) readData(data string) ([]byte, error) {
	name, isFile := strings.CutPrefix(data, "@")
	switch {
	case !isFile:
		return []byte(data), nil
	case name == "-":
		b, err := io.ReadAll(c.stdin)
		if err != nil {
			return nil, fmt.Errorf("read stdin: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("--data: %w", err)
	}
	return b, nil
}

// call sends the request and prints the answer; anything but a 2xx is an error.
func (c *cli) call(req *http.Request, what string) error {
	transport := c.transport()
	defer transport.CloseIdleConnections()
	// What the application answers is shown, not followed.
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	resp, err := client.Do(req)
	if err != nil {
		return c.callError(what, err)
	}
	defer resp.Body.Close()
	var head bytes.Buffer // what an error's words are taken from
	body := io.TeeReader(resp.Body, &limited{b: &head, left: maxErrorBody})
	if c.output == formatTable {
		c.summary(resp)
		if _, err := io.Copy(c.stdout, body); err != nil {
			return c.callError(what+": the answer broke off", err)
		}
	} else if err := c.printEnvelope(resp, body); err != nil {
		return c.callError(what+": the answer broke off", err)
	}
	return answered(what, resp, head.Bytes())
}

// transport dials the agent directly, whatever the shell's proxy variables say.
func (c *cli) transport() *http.Transport {
	d := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{DisableCompression: true, DialContext: d.DialContext}
	if path, ok := strings.CutPrefix(c.agent, "unix://"); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
	}
	return t
}

// callError sorts what went wrong on the way to the agent and back.
func (c *cli) callError(what string, err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return &exitError{code: exitInterrupted, err: fmt.Errorf("%s: interrupted", what)}
	case errors.As(err, &op) && op.Op == "dial":
		return &exitError{
			code: exitUnreachable,
			err:  fmt.Errorf("%s: nobody answers at %s: %w", what, c.agent, op),
			hint: fmt.Sprintf("is an agent running at %s? --agent says where to call", c.agent),
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &exitError{code: exitDeadline, err: fmt.Errorf("%s: the agent did not answer in time: nobody knows whether it was executed", what)}
	}
	return fmt.Errorf("%s: nobody knows whether it was executed: %w", what, err)
}

// summary says who served a call and why, as far as the answer tells.
func (c *cli) summary(resp *http.Response) {
	words := []string{resp.Status}
	for _, h := range []struct{ name, format string }{
		{headerServedBy, "served by %s"}, {headerStrategy, "strategy %s"}, {headerTier, "tier %s"}, {headerAttempts, "attempts %s"},
	} {
		if v := resp.Header.Get(h.name); v != "" {
			words = append(words, fmt.Sprintf(h.format, v))
		}
	}
	fmt.Fprintln(c.stderr, clean(strings.Join(words, ", ")))
	if v := resp.Header.Get(headerReason); v != "" {
		fmt.Fprintln(c.stderr, "because:", clean(v))
	}
}

// envelope is a call's whole answer, for -o json and yaml. Status, headers and body are spelt as
// in the answer of a broadcast.
type envelope struct {
	Status     int         `json:"status"`
	ServedBy   string      `json:"servedBy,omitempty"`
	Strategy   string      `json:"strategy,omitempty"`
	Tier       string      `json:"tier,omitempty"`
	Attempts   string      `json:"attempts,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	Headers    http.Header `json:"headers"`
	Body       string      `json:"body,omitempty"`
	BodyBase64 []byte      `json:"bodyBase64,omitempty"` // instead of Body where that is no text
}

func (c *cli) printEnvelope(resp *http.Response, body io.Reader) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	a := envelope{
		Status: resp.StatusCode, ServedBy: resp.Header.Get(headerServedBy), Strategy: resp.Header.Get(headerStrategy),
		Tier: resp.Header.Get(headerTier), Attempts: resp.Header.Get(headerAttempts), Reason: resp.Header.Get(headerReason), Headers: resp.Header,
	}
	if utf8.Valid(b) {
		a.Body = string(b)
	} else {
		a.BodyBase64 = b
	}
	out, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return c.printJSON(out)
}

// agentsOwn is how the reason of an answer begins that no application gave: with one word, such as
// DEADLINE_EXCEEDED. It may name an instance all the same, the one that may have executed the call.
var agentsOwn = regexp.MustCompile(`^[A-Z][A-Z_]+: `)

// answered gives an answer's exit code. An answer that names who served it is the
// application's; any other is the agent's own, with Dapr's error body.
func answered(what string, resp *http.Response, head []byte) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	if by := resp.Header.Get(headerServedBy); by != "" && !agentsOwn.MatchString(resp.Header.Get(headerReason)) {
		return &exitError{code: exitFailed, err: fmt.Errorf("%s: %s answered %s", what, by, resp.Status)}
	}
	code := exitFailed
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
		code = exitRefused
	case http.StatusServiceUnavailable:
		code = exitUnavailable
	case http.StatusGatewayTimeout:
		code = exitDeadline
	}
	var said struct{ ErrorCode, Message string }
	if json.Unmarshal(head, &said) == nil && said.Message != "" {
		return &exitError{code: code, err: fmt.Errorf("%s: %s: %s: %s", what, resp.Status, said.ErrorCode, said.Message)}
	}
	return &exitError{code: code, err: fmt.Errorf("%s: %s", what, resp.Status)}
}

// limited keeps the first bytes that are written to it, and takes the rest as well.
type limited struct {
	b    *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.b.Write(p[:n])
	return len(p), nil
}
