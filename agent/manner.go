package agent

import (
	"cmp"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/internal/catalog"
)

// manner is how an application is spoken to.
type manner struct {
	protocol app.Protocol
	access   *app.Access
}

// manners gives a router's manners for applications.
func manners(c Config) (spoken map[catalog.Name]manner, others manner) {
	if c.AppToken != "" {
		others.access = &app.Access{Token: c.AppToken}
	}
	spoken = make(map[catalog.Name]manner, len(c.Apps))
	for _, a := range c.Apps {
		m := manner{protocol: a.Protocol, access: others.access}
		switch {
		case a.Protocol == app.Dapr:
			m.access = nil // a sidecar asks for nothing where others deliver
		case a.Token != "" || a.TLS != nil:
			m.access = &app.Access{Token: cmp.Or(a.Token, c.AppToken), TLS: a.TLS}
		}
		spoken[a.Name] = m
	}
	return spoken, others
}

// endpoint is where an own instance is delivered to: its sidecar, if it is delivered to by way of
// that; else the application, where its registry says, or on loopback at the port that the agent
// was told.
func (r *router) endpoint(i *catalog.Instance) app.Endpoint {
	how, told := r.spoken[i.Name]
	if !told {
		how = r.others
	}
	e := app.Endpoint{Address: i.Address, Port: r.book.Port(i), Protocol: how.protocol, Access: how.access}
	switch {
	case e.Protocol == app.Dapr:
		e.Address, e.Port = r.book.Sidecar(i)
	case i.Port == 0:
		e.Address = "127.0.0.1"
	}
	return e
}
