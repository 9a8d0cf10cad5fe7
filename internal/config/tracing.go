package config

// Tracing says where an agent sends the spans of calls whose callers sample their traces.
type Tracing struct {
	// Endpoint is host:port of an OpenTelemetry collector that takes OTLP over gRPC.
	Endpoint string `yaml:"endpoint"`
	// Insecure allows plaintext to an endpoint that is not on loopback; without it, that is TLS.
	Insecure bool `yaml:"insecure,omitempty"`
}

func (v *validator) tracing(t *Tracing) {
	if t == nil {
		return
	}
	if t.Endpoint == "" {
		v.missing("tracing", "endpoint", true, "want a collector, for example endpoint: 127.0.0.1:4317")
	} else if err := checkDial(t.Endpoint, "4317"); err != nil {
		v.errorf("tracing.endpoint", "%v", err)
	}
}
