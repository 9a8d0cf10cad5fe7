package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// readers bounds how many services are read at once.
	readers = 16
	// maxConns bounds the connections to Consul, which by default takes 200 from one client
	// address (limits.http_max_conns_per_client): readers, watchers, the prober, and two to spare
	// for connections that are closing.
	maxConns = readers + 3 + 1 + 2

	// blockFor is how long a blocking query waits for a change. Consul adds up to a sixteenth to
	// spread its clients.
	blockFor     = 60 * time.Second
	blockTimeout = blockFor + blockFor/16 + 5*time.Second
	listTimeout  = 30 * time.Second // a whole table
	readTimeout  = 5 * time.Second  // one service
	probeTimeout = 2 * time.Second
)

// client asks one Consul. Every query has a deadline and ends with its context. It is safe for
// concurrent use.
type client struct {
	api       *api.Client
	transport *http.Transport
	auth      *auth
	metrics   *Metrics
	registry  string
}

func newClient(cfg Config, deps Deps) (*client, error) {
	scheme, host, err := cfg.endpoint()
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	var tc *tls.Config
	if cfg.TLS != nil {
		tc, err = api.SetupTLSConfig(&api.TLSConfig{
			Address: cfg.TLS.ServerName, CAFile: cfg.TLS.CA, CertFile: cfg.TLS.Cert, KeyFile: cfg.TLS.Key,
		})
		if err != nil {
			return nil, fmt.Errorf("consul: tls: %w", err)
		}
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     tc,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxConnsPerHost:     maxConns,
		MaxIdleConnsPerHost: maxConns,
		IdleConnTimeout:     90 * time.Second,
	}
	a := &auth{next: transport, token: cfg.Token, file: cfg.TokenFile}
	capi, err := api.NewClient(&api.Config{
		Address:    host,
		Scheme:     scheme,
		Datacenter: cfg.Datacenter,
		// A redirect is no answer of Consul's API, and following one would take the token along.
		HttpClient: &http.Client{Transport: a, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
		// The library takes tokens from the environment where none is given here. auth puts the
		// right one, or none, in place of this.
		Token: "unused",
	})
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	return &client{api: capi, transport: transport, auth: a, metrics: deps.Metrics, registry: deps.Registry}, nil
}

// close lets go of the idle connections and the goroutines that read from them.
func (c *client) close() { c.transport.CloseIdleConnections() }

// auth puts the token on each request.
type auth struct {
	next  http.RoundTripper
	token string
	file  string
}

var _ http.RoundTripper = (*auth)(nil)

const tokenHeader = "X-Consul-Token"

// RoundTrip implements http.RoundTripper.
func (a *auth) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := a.current()
	if err != nil {
		if req.Body != nil {
			err = errors.Join(err, req.Body.Close())
		}
		return nil, err
	}
	req = req.Clone(req.Context())
	if req.Header.Del(tokenHeader); token != "" {
		req.Header.Set(tokenHeader, token)
	}
	return a.next.RoundTrip(req)
}

// current gives the token to use now, or none.
func (a *auth) current() (string, error) {
	if a.file == "" {
		return a.token, nil
	}
	b, err := os.ReadFile(a.file)
	if err != nil {
		return "", fmt.Errorf("read token file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", a.file)
	}
	return token, nil
}

// reply is what Consul said, at which index, and whether its ACLs left something out. Consul
// tells the latter only to those who come with a token.
type reply[T any] struct {
	body     T
	index    uint64
	filtered bool
}

// query is one question to Consul.
type query struct {
	kind     string // for metrics and errors
	path     string
	index    uint64 // above 0: wait until the table's index is above it
	nodeMeta string // only nodes with this metadata key, set to "true"
	timeout  time.Duration
}

// ask sends one query.
func ask[T any](ctx context.Context, c *client, q query) (reply[T], error) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	opts := (&api.QueryOptions{}).WithContext(ctx)
	if q.index > 0 {
		opts.WaitIndex, opts.WaitTime = q.index, blockFor
	}
	if q.nodeMeta != "" {
		opts.NodeMeta = map[string]string{q.nodeMeta: "true"}
	}
	var r reply[T]
	var body *T
	meta, err := c.api.Raw().Query(q.path, &body, opts)
	switch {
	case err != nil:
		err = c.words(err, q.timeout)
	case body == nil:
		err = errors.New("the answer is null")
	case meta.LastIndex == 0:
		// Consul's rule: an index is above 0, or a client that waits for the next one would spin.
		err = errors.New("the answer has no X-Consul-Index: is this Consul's HTTP API?")
	default:
		r = reply[T]{body: *body, index: meta.LastIndex, filtered: meta.ResultsFilteredByACLs}
	}
	c.count(q.kind, err)
	if err != nil {
		return r, fmt.Errorf("consul: %s: %w", q.kind, err)
	}
	return r, nil
}

func (c *client) count(kind string, err error) {
	result := "ok"
	if status := (api.StatusError{}); errors.As(err, &status) {
		result = "refused"
	} else if err != nil {
		result = "failed"
	}
	c.metrics.queries.WithLabelValues(c.registry, kind, result).Inc()
}

// words says what is wrong so that a person can mend it, without the token.
func (c *client) words(err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s: %w", timeout, context.DeadlineExceeded)
	}
	status := api.StatusError{}
	if !errors.As(err, &status) {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // without the URL and its parameters
		}
		if e := (*net.OpError)(nil); errors.As(err, &e) {
			err = fmt.Errorf("%w: is Consul up, and is its address right?", err)
		}
		return err
	}
	token, _ := c.auth.current() // its own failure was told by the request
	status.Body = plain(status.Body, token)
	hint := ""
	switch {
	case status.Code == http.StatusForbidden && token == "":
		hint = "no token is configured and anonymous access is not allowed"
	case status.Code == http.StatusForbidden && strings.Contains(status.Body, "ACL not found"):
		hint = "Consul does not know the configured token"
	case status.Code == http.StatusForbidden:
		hint = "the token's policies do not allow it: reading needs service:read and node:read, registering service:write"
	case status.Code == http.StatusTooManyRequests:
		hint = "Consul limits requests or connections: see limits.http_max_conns_per_client and limits.request_limits"
	case strings.Contains(status.Body, "No cluster leader"):
		hint = "Consul's servers have no leader just now"
	case strings.Contains(status.Body, "No path to datacenter"):
		hint = "Consul does not know the configured datacenter"
	case status.Code == http.StatusNotFound:
		hint = "is this Consul's HTTP API?"
	default:
		return status
	}
	return fmt.Errorf("%s: %w", hint, status)
}

// plain makes somebody else's text fit for a log line: short, on one line, without the token.
func plain(s, token string) string {
	if token != "" {
		s = strings.ReplaceAll(s, token, "<token>")
	}
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}
