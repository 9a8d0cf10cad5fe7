package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	// maxQuestions is how many questions are on the wire at a time.
	maxQuestions = 16
	// udpSize is what an answer over UDP may hold, as EDNS0 tells the server: what passes every
	// ordinary network in one piece (the DNS flag day of 2020).
	udpSize = 1232
	// readBuffer takes what servers send that heed no such size.
	readBuffer = 4096
	// patience is how many refusals in a row, to questions that another server answered, make that
	// one the first to be asked.
	patience = 3
)

// The kinds of failure; they are the metric's labels.
const (
	kindTimeout     = "timeout"
	kindUnreachable = "unreachable"
	kindServfail    = "servfail"
	kindRefused     = "refused"
	kindFormerr     = "formerr"
	kindReferral    = "referral"
	kindGarbled     = "garbled"
	kindOther       = "other"
)

// failure is why a server told nothing. It says nothing about the name.
type failure struct {
	kind   string
	server string
	text   string // goes on after the server's address
}

// Error gives "server does or says what".
func (f *failure) Error() string { return f.server + " " + f.text }

// silent reports whether the server itself failed, rather than said that it cannot answer this.
func (f *failure) silent() bool {
	return f.kind == kindTimeout || f.kind == kindUnreachable || f.kind == kindGarbled
}

// client asks servers. Its methods are safe for concurrent use.
type client struct {
	timeout time.Duration
	metrics registryMetrics
	slots   chan struct{}

	mu      sync.Mutex
	servers []*server
	first   int // index of the one that is asked first
}

// server is guarded by the client's mu.
type server struct {
	address string
	// plain says that it understands no EDNS0.
	plain bool
	// refusals counts what it would not answer in a row while another one did.
	refusals int
}

func newClient(servers []string, timeout time.Duration, m registryMetrics) *client {
	c := &client{timeout: timeout, metrics: m, slots: make(chan struct{}, maxQuestions)}
	c.use(servers)
	return c
}

// use makes these the servers to ask. Where they are the same as before, the one that works stays
// the first to be asked.
func (c *client) use(addresses []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.EqualFunc(c.servers, addresses, func(s *server, a string) bool { return s.address == a }) {
		return
	}
	c.first, c.servers = 0, nil
	for _, a := range addresses {
		c.servers = append(c.servers, &server{address: a})
	}
}

// order gives the servers as they are to be asked now.
func (c *client) order() []*server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Concat(c.servers[c.first:], c.servers[:c.first])
}

// ask asks one server after the other until one knows. Those that let the question time out are
// asked a second time, since a datagram may be lost; a refusal is taken at its word.
func (c *client) ask(ctx context.Context, q question) (answer, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	defer func() { <-c.slots }()

	servers := c.order()
	failures := make([]*failure, len(servers))
	for range 2 {
		for i, s := range servers {
			if f := failures[i]; f != nil && f.kind != kindTimeout {
				continue
			}
			a, err := c.askOne(ctx, s, q)
			if ctx.Err() != nil {
				return answer{}, ctx.Err()
			}
			if err == nil {
				c.worked(s, servers[0], failures[0])
				return a, nil
			}
			if !errors.As(err, &failures[i]) {
				failures[i] = &failure{kind: kindOther, text: err.Error()}
			}
			failures[i].server = s.address
		}
	}
	return answer{}, unanswered(failures)
}

// unanswered is what is told of a question that no server answered: the failure of each.
type unanswered []*failure

func (u unanswered) Error() string {
	if len(u) == 0 {
		return "there is no server to ask"
	}
	texts := make([]string, len(u))
	for i, f := range u {
		texts[i] = f.Error()
	}
	return strings.Join(texts, "; ")
}

// silent reports whether every server failed to say anything: then the next question will fare no
// better.
func (u unanswered) silent() bool {
	return !slices.ContainsFunc(u, func(f *failure) bool { return !f.silent() })
}

// worked notes that s answered, and that the first to be asked did not, where f is not nil. One
// that is down is not asked first any more; one that merely would not answer gets some more
// chances, since another name may be its own.
func (c *client) worked(s, first *server, f *failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.refusals = 0
	if s == first || f == nil {
		return
	}
	if first.refusals++; !f.silent() && first.refusals < patience {
		return
	}
	at := slices.Index(c.servers, s)
	if at < 0 || c.servers[c.first] != first {
		return // others have replaced them meanwhile
	}
	c.first, first.refusals = at, 0
	c.metrics.switches.Inc()
}

// askOne asks one server, over TCP where its answer does not fit a datagram, and without EDNS0
// where it does not know that.
func (c *client) askOne(ctx context.Context, s *server, q question) (answer, error) {
	c.mu.Lock()
	plain := s.plain
	c.mu.Unlock()
	m, network, err := c.message(ctx, s.address, q, !plain)
	if err == nil && !plain && knowsNoEDNS(m.Rcode) {
		c.metrics.query(network, kindFormerr)
		if m, network, err = c.message(ctx, s.address, q, false); err == nil && !knowsNoEDNS(m.Rcode) {
			c.mu.Lock()
			s.plain = true
			c.mu.Unlock()
		}
	}
	var a answer
	if err == nil {
		a, err = judge(q, m)
	}
	if ctx.Err() == nil {
		c.metrics.query(network, result(a, err))
	}
	return a, err
}

func result(a answer, err error) string {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f.kind
	case err != nil:
		return kindOther
	case a.outcome == noName:
		return "nxdomain"
	case a.outcome == noData:
		return "nodata"
	}
	return "answer"
}

// knowsNoEDNS reports whether a response code may mean that EDNS0 is what the server stumbled over
// (RFC 6891, section 7).
func knowsNoEDNS(rcode int) bool {
	return rcode == miekg.RcodeFormatError || rcode == miekg.RcodeNotImplemented || rcode == miekg.RcodeBadVers
}

// judge tells answers from refusals.
func judge(q question, m *miekg.Msg) (answer, error) {
	refusal := func(kind, text string) (answer, error) {
		return answer{}, &failure{kind: kind, text: text + extendedError(m)}
	}
	switch m.Rcode {
	case miekg.RcodeSuccess, miekg.RcodeNameError:
		return parse(q, m)
	case miekg.RcodeServerFailure:
		// BIND answers so to a name whose aliases run in a circle, and shows them.
		var a answer
		if _, a.broken = a.follow(q, m.Answer); a.broken != "" {
			a.outcome, a.records, a.ttl = noData, nil, 0
			return a, nil
		}
		return refusal(kindServfail, "answers SERVFAIL: it cannot find the answer itself: look at its log, at the zone, or at the server it asks")
	case miekg.RcodeRefused:
		return refusal(kindRefused, "answers REFUSED: it does not serve this name, or not to this host: check the name, and who may ask the server")
	case miekg.RcodeFormatError:
		return refusal(kindFormerr, "answers FORMERR: it does not understand the question")
	}
	word, ok := miekg.RcodeToString[m.Rcode]
	if !ok {
		word = fmt.Sprintf("response code %d", m.Rcode)
	}
	return refusal(kindOther, "answers "+word)
}

// extendedError is what the server says of its reasons (RFC 8914), or "".
func extendedError(m *miekg.Msg) string {
	o := m.IsEdns0()
	if o == nil {
		return ""
	}
	for _, option := range o.Option {
		if e, ok := option.(*miekg.EDNS0_EDE); ok {
			s := " (it says: " + cmp.Or(miekg.ExtendedErrorCodeToString[e.InfoCode], "code "+strconv.Itoa(int(e.InfoCode)))
			if e.ExtraText != "" {
				s += fmt.Sprintf(" %.100q", e.ExtraText)
			}
			return s + ")"
		}
	}
	return ""
}

// message gets the answer to one question, whatever it says, and says over which network.
func (c *client) message(ctx context.Context, address string, q question, edns bool) (m *miekg.Msg, network string, err error) {
	m, err = c.exchange(ctx, "udp", address, q, edns)
	if err != nil || !m.Truncated {
		return m, "udp", err
	}
	c.metrics.query("udp", "truncated")
	m, err = c.exchange(ctx, "tcp", address, q, edns)
	if err == nil && m.Truncated {
		err = &failure{kind: kindGarbled, text: "sends a truncated answer even over TCP"}
	}
	return m, "tcp", err
}

// exchange asks once, over a connection of its own: for a datagram that means a port that nobody
// can foresee (RFC 5452), and the library draws the id likewise.
func (c *client) exchange(ctx context.Context, network, address string, q question, edns bool) (*miekg.Msg, error) {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(bounded, network, address)
	if err != nil {
		return nil, c.failed(network, err, "")
	}
	defer conn.Close()
	// The deadline also ends a read when ctx is cancelled.
	defer context.AfterFunc(bounded, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()

	ask := new(miekg.Msg).SetQuestion(q.name, q.typ)
	if edns {
		ask.SetEdns0(udpSize, false)
	}
	wire := &miekg.Conn{Conn: conn, UDPSize: readBuffer}
	if err := wire.WriteMsg(ask); err != nil {
		return nil, c.failed(network, err, "")
	}
	stray := ""
	for {
		p, err := wire.ReadMsgHeader(nil)
		if err != nil && !errors.Is(err, miekg.ErrShortRead) {
			return nil, c.failed(network, err, stray)
		}
		m, why := matching(ask, p)
		if m != nil {
			return m, nil
		}
		if network == "tcp" {
			return nil, &failure{kind: kindGarbled, text: "sends what is no answer: " + why}
		}
		// Anybody can send a datagram that looks like one of the server's: the right one may follow.
		c.metrics.strays.Inc()
		stray = why
	}
}

// failed says in words why there is no answer. stray is what was wrong with a datagram that came
// instead.
func (c *client) failed(network string, err error, stray string) *failure {
	var timeout net.Error
	late := errors.As(err, &timeout) && timeout.Timeout()
	switch {
	case late && stray != "":
		return &failure{kind: kindGarbled, text: fmt.Sprintf("sends no answer within %v, but %s", c.timeout, stray)}
	case late:
		return &failure{kind: kindTimeout, text: fmt.Sprintf("does not answer within %v over %s: is it up, and may this host reach it?", c.timeout, strings.ToUpper(network))}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the addresses, which are said already
	}
	return &failure{kind: kindUnreachable, text: fmt.Sprintf("cannot be asked over %s: %v: is it up, and is the address right?", strings.ToUpper(network), err)}
}

// matching reads a message and gives it where it answers the question, else what is wrong with it.
func matching(ask *miekg.Msg, p []byte) (m *miekg.Msg, why string) {
	m = new(miekg.Msg)
	err := m.Unpack(p)
	switch {
	case len(p) == 0, err != nil && !m.Truncated, err != nil && !m.Response:
		return nil, "something that is no DNS message"
	case m.Id != ask.Id, !m.Response, m.Opcode != ask.Opcode:
		return nil, "a message that answers another question"
	case err != nil:
		// It was cut in the middle of a record; it is only asked whether it is whole.
		return m, ""
	}
	if len(m.Question) == 0 && m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError {
		return m, "" // some servers repeat no question that they do not understand
	}
	if len(m.Question) != 1 {
		return nil, "a message that answers another question"
	}
	if got, want := m.Question[0], ask.Question[0]; canonical(got.Name) != want.Name || got.Qtype != want.Qtype || got.Qclass != want.Qclass {
		return nil, "a message that answers another question"
	}
	return m, ""
}
