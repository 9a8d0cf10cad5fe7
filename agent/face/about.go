package face

import (
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/wire"
)

// What an answer says of its call, in gRPC's spelling and in HTTP's. An application cannot say any
// of it: see invoke.Ours.
const (
	aboutServedBy = iota
	aboutStrategy
	aboutTier
	aboutAttempts
	aboutReason
	aboutCount
)

var aboutKeys = [aboutCount]string{
	aboutServedBy: invoke.ServedByKey,
	aboutStrategy: invoke.StrategyKey,
	aboutTier:     invoke.TierKey,
	aboutAttempts: invoke.AttemptsKey,
	aboutReason:   invoke.ReasonKey,
}

var aboutHeaders = func() (h [aboutCount]string) {
	for i, k := range aboutKeys {
		h[i] = http.CanonicalHeaderKey(k)
	}
	return h
}()

// about gives the values of aboutKeys, empty where there is nothing to say. They are in one
// allocation, since every call makes them.
func about(a relay.Answer) []string {
	out := make([]string, aboutCount)
	if a.Instance != nil {
		out[aboutServedBy] = wire.Printable(a.Instance.Cluster + "/" + a.Instance.Instance)
	}
	if a.Strategy != "" {
		out[aboutStrategy] = a.Strategy
		out[aboutAttempts] = strconv.Itoa(a.Attempts)
	}
	out[aboutTier] = invoke.Text(a.TierName)
	reason := a.Rule
	// A rule that says itself that nobody can be called is what explain says, too; the error's words
	// are in the body.
	if a.Err != nil && (a.Attempts > 0 || a.Err.Reason == "" || !strings.Contains(reason, ": "+a.Err.Reason)) {
		reason = a.Err.Error()
	}
	out[aboutReason] = invoke.Text(reason)
	return out
}

// describe writes what an answer says of its call into its HTTP headers.
func describe(h http.Header, a relay.Answer) {
	values := about(a)
	for i, v := range values {
		if v != "" {
			h[aboutHeaders[i]] = values[i : i+1 : i+1]
		}
	}
}

// description is describe for gRPC.
func description(a relay.Answer) metadata.MD {
	values := about(a)
	md := make(metadata.MD, aboutCount)
	for i, v := range values {
		if v != "" {
			md[aboutKeys[i]] = values[i : i+1 : i+1]
		}
	}
	return md
}
