package face

import (
	"net/netip"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/internal/catalog"
)

// Own knows the instances of this node. No method blocks; all are safe for concurrent use.
type Own interface {
	// Find gives the own instance with exactly this identity.
	Find(id catalog.ID) (OwnInstance, bool)
	// Any gives one available own instance of an app-id, in whatever namespace (Dapr's wire does
	// not carry the callee's). An empty appID means the node's only application, if it has
	// exactly one.
	Any(appID string) (OwnInstance, bool)
	// At gives the application that has a source address, where exactly one has it. The zero Addr
	// means the node's only application, if it has exactly one.
	At(addr netip.Addr) (catalog.Name, bool)
}

// OwnInstance is an instance of this node and where its application listens.
type OwnInstance struct {
	Instance *catalog.Instance
	App      app.Endpoint
}
