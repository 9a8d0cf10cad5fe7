package links

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
)

// Contributor is one live stream of an agent. Take is called by one goroutine at a time.
type Contributor struct {
	c      *Cluster
	seat   *seat
	node   string
	number uint64 // of all that joined
	joined time.Time

	links   map[string]struct{} // those it named last
	pending map[string]*update  // unfinished updates, by link
	bytes   int                 // of them

	// Wake holds a token while Next has something.
	wake   chan struct{}
	grants map[string]uint64 // not taken yet
	news   bool              // so is the word on who owns the cluster
}

// Join takes the place of a node for an agent of the cluster; who names it. A second live agent
// under the same name is refused, as two would contradict each other for ever. One of which nothing was
// heard for as long as its word counts loses its place to it: that of a host that lost its power closes
// no connection.
func (c *Cluster) Join(now time.Time, who *feedv1.Contributor) (*Contributor, error) {
	if n := len(who.GetIncarnation()); n == 0 || n > maxText {
		return nil, status.Errorf(codes.InvalidArgument, "the contributor's incarnation has %d bytes: want 1 to %d", n, maxText)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.seats[who.GetNode()]
	if s != nil && s.incarnation != who.GetIncarnation() && now.Sub(s.heard) > standingFor {
		c.vacate(s, who.GetNode(), now)
		s = nil
	}
	if s == nil {
		s = &seat{incarnation: who.GetIncarnation(), contributors: map[*Contributor]struct{}{}}
		c.seats[who.GetNode()] = s
	} else if s.incarnation != who.GetIncarnation() {
		return nil, c.placeTaken(who.GetNode())
	}
	s.heard = now
	c.joins++
	x := &Contributor{
		c: c, seat: s, node: who.GetNode(), number: c.joins, joined: now,
		links: map[string]struct{}{}, pending: map[string]*update{},
		wake: make(chan struct{}, 1), grants: map[string]uint64{},
	}
	s.contributors[x] = struct{}{}
	c.metrics.contributors.Set(float64(len(c.seats)))
	x.tell()
	return x, nil
}

// vacate takes a node's place from an agent that is silent. The caller holds mu.
func (c *Cluster) vacate(s *seat, node string, now time.Time) {
	c.log.Info("contributor is silent, and its place is its next life's", "node", node, "silent", now.Sub(s.heard).Round(time.Second))
	s.lost = true
	delete(c.seats, node)
	for x := range s.contributors {
		x.name(nil, now)
		x.pending, x.bytes = map[string]*update{}, 0
	}
}

func (c *Cluster) placeTaken(node string) error {
	return status.Errorf(codes.AlreadyExists, "another agent contributes as node %q of cluster %q: give each its own `node`", node, c.name)
}

// Leave frees the place when the stream has ended. What the agent reported goes to another.
func (x *Contributor) Leave(now time.Time) {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(x.seat.contributors, x)
	if len(x.seat.contributors) == 0 && !x.seat.lost {
		delete(c.seats, x.node)
	}
	c.metrics.contributors.Set(float64(len(c.seats)))
	x.name(nil, now)
	x.pending, x.bytes = nil, 0
}

// Take takes one message. An error, which is a gRPC status, ends the stream.
func (x *Contributor) Take(now time.Time, req *feedv1.ContributeRequest) error {
	if !x.hear(now) {
		return x.c.placeTaken(x.node)
	}
	if req.GetStanding() != nil {
		if err := x.stand(now, req.GetStanding()); err != nil {
			return err
		}
	}
	if req.GetContribution() != nil {
		return x.contribute(now, req.GetContribution())
	}
	return nil
}

// hear notes that the agent said something, and reports whether its place is still its own.
func (x *Contributor) hear(now time.Time) bool {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	x.seat.heard = now
	return !x.seat.lost
}

// stand takes how the agent stands with its links, all of them.
func (x *Contributor) stand(now time.Time, st *feedv1.Standing) error {
	named, err := readStanding(now, st)
	if err != nil {
		return err
	}
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	x.name(named, now)
	x.c.sayHeard()
	return nil
}

// name notes the links that x hears now, and judges those whose standing that changes. The
// caller holds mu.
func (x *Contributor) name(named map[string]standing, now time.Time) {
	c := x.c
	var touched []*link
	for name := range x.links {
		if _, still := named[name]; still {
			continue
		}
		delete(x.links, name)
		x.forget(name)
		if k := c.links[name]; k != nil {
			delete(k.named, x)
			touched = append(touched, k)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		k := c.link(name, now)
		if k == nil {
			continue
		}
		x.links[name] = struct{}{}
		k.named[x] = named[name]
		touched = append(touched, k)
		if k.reporter == x && k.listed && k.candidate(x, now) {
			k.heard(named[name])
		}
	}
	for _, k := range touched {
		c.judge(k, now)
	}
}

// contribute takes a part of what a link lists.
func (x *Contributor) contribute(now time.Time, m *feedv1.Contribution) error {
	c := x.c
	part, err := readContribution(c.name, m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.links[m.GetLink()]
	if k == nil || k.reporter != x || k.term != m.GetTerm() {
		c.metrics.drop(oldTerm)
		x.forget(m.GetLink())
		return nil
	}
	k.asked = now
	u := x.pending[k.name]
	if u == nil || u.term != k.term {
		x.forget(k.name)
		u = &update{term: k.term, sizes: map[string]int{}}
		x.pending[k.name] = u
	}
	for range part.newer {
		c.metrics.drop(newHealth)
	}
	u.add(m, part)
	x.bytes += part.bytes
	if x.bytes > maxBytes {
		c.refuse(k, now)
		return nil
	}
	if m.GetMore() {
		return nil
	}
	x.forget(k.name)
	if !k.listed && !u.full {
		c.metrics.drop(notFull)
		return status.Errorf(codes.InvalidArgument, "link %q: the first contribution of term %d must be full", k.name, k.term)
	}
	if k.sizeAfter(u) > maxBytes {
		c.refuse(k, now)
		return nil
	}
	k.publish(now, u.catalog(), u.sizes)
	c.metrics.contributions.Inc()
	return nil
}

// forget drops an unfinished update.
func (x *Contributor) forget(link string) {
	if u := x.pending[link]; u != nil {
		x.bytes -= u.bytes
		delete(x.pending, link)
	}
}

// before orders contributors: by node, and of one node the stream that came last first.
func (x *Contributor) before(y *Contributor) bool {
	return cmp.Or(cmp.Compare(x.node, y.node), cmp.Compare(y.number, x.number)) < 0
}

// grant leaves a grant for the agent to be told; of several for one link the last counts. The
// caller holds mu.
func (x *Contributor) grant(link string, term uint64) {
	x.grants[link] = term
	x.signal()
}

// tell leaves the word on who owns the cluster. The caller holds mu.
func (x *Contributor) tell() {
	x.news = true
	x.signal()
}

func (x *Contributor) signal() {
	select {
	case x.wake <- struct{}{}:
	default: // a token is there already
	}
}

// Wake holds a token while there is something to tell the agent.
func (x *Contributor) Wake() <-chan struct{} { return x.wake }

// Next gives what the agent was not told yet, all in one; nil where there is nothing.
func (x *Contributor) Next() *feedv1.ContributeResponse {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if !x.news && len(x.grants) == 0 {
		return nil
	}
	m := &feedv1.ContributeResponse{Owner: x.c.owner}
	for _, link := range slices.Sorted(maps.Keys(x.grants)) {
		m.Grants = append(m.Grants, &feedv1.Grant{Link: link, Term: x.grants[link]})
	}
	clear(x.grants)
	x.news = false
	return m
}
