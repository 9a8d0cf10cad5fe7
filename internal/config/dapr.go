package config

// dapr checks the listener for the Dapr sidecars of the node, which dial TCP only.
func (v *validator) dapr(l *Listener) {
	switch {
	case l == nil:
	case l.Listen == "":
		v.missing("dapr", "listen", true, "want where the sidecars of this node call, for example listen: 127.0.0.1:50003")
	default:
		v.listener("dapr", *l, "50003", false)
	}
}
