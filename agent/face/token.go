package face

import (
	"crypto/sha256"
	"crypto/subtle"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
)

// tokens are those that a caller may show. They are kept and compared as digests, all of them every
// time, so that the time which it takes tells nothing of any.
type tokens struct {
	api  *digest // demanded of every call; nil: of none
	apps []owned
}

type digest [sha256.Size]byte

// owned is the token of one application.
type owned struct {
	digest digest
	who    *who
}

func newTokens(api string) tokens {
	if api == "" {
		return tokens{}
	}
	d := digest(sha256.Sum256([]byte(api)))
	return tokens{api: &d}
}

func (t *tokens) add(token string, w *who) {
	t.apps = append(t.apps, owned{sha256.Sum256([]byte(token)), w})
}

// check gives the owner of a token; nil for one that is everybody's, for none, and, where there are
// no tokens at all, for any.
func (t *tokens) check(token string) (*who, *invoke.Error) {
	switch {
	case t.api == nil && len(t.apps) == 0:
		return nil, nil // a Dapr SDK shows the token of its environment to whoever it calls
	case token == "" && t.api == nil:
		return nil, nil
	case token == "":
		return nil, invoke.Errorf(codes.Unauthenticated, invoke.ReasonNoToken, "invalid api token: %s is missing", invoke.APIToken)
	}
	shown := digest(sha256.Sum256([]byte(token)))
	var found *who
	for i := range t.apps {
		if subtle.ConstantTimeCompare(shown[:], t.apps[i].digest[:]) == 1 {
			found = t.apps[i].who
		}
	}
	common := t.api != nil && subtle.ConstantTimeCompare(shown[:], t.api[:]) == 1
	if found == nil && !common {
		return nil, invoke.Errorf(codes.Unauthenticated, invoke.ReasonNoToken, "invalid api token")
	}
	return found, nil
}
