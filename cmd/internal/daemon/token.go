package daemon

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/farcall/farcall/agent"
	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/internal/config"
)

// The environment variables of an agent, as Dapr has them.
const (
	APITokenVariable = "DAPR_API_TOKEN"
	AppTokenVariable = "APP_API_TOKEN"
)

// Tokens are those that an agent's environment holds; an empty one is none.
type Tokens struct {
	// API is what the node's applications must show to the agent.
	API config.Secret
	// App is what the agent shows to applications without a token of their own.
	App config.Secret
}

// TokensFromEnvironment reads the tokens of this process.
func TokensFromEnvironment() Tokens {
	return Tokens{API: config.Secret(os.Getenv(APITokenVariable)), App: config.Secret(os.Getenv(AppTokenVariable))}
}

// into puts the tokens into an agent's configuration, those of the applications too. Errors do not
// repeat them.
func (t Tokens) into(cfg *agent.Config, apps []config.App) error {
	for _, v := range []struct {
		name  string
		token config.Secret
	}{{APITokenVariable, t.API}, {AppTokenVariable, t.App}} {
		if v.token == "" {
			continue // as with Dapr, an empty one is none
		}
		if err := config.CheckToken(v.token.Value()); err != nil {
			return fmt.Errorf("%s %w", v.name, err)
		}
	}
	cfg.APIToken, cfg.AppToken = t.API.Value(), t.App.Value()
	owners := map[string]int{}
	for i, a := range apps {
		token := a.Token.Value()
		if a.TokenFile != "" {
			var err error
			if token, err = readToken(a.TokenFile); err != nil {
				return fmt.Errorf("apps[%d].tokenFile: %w", i, err)
			}
		}
		if token == "" {
			continue
		}
		if first, ok := owners[token]; ok {
			return fmt.Errorf("apps[%d] has the token of apps[%d]: an application is known by its token", i, first)
		}
		owners[token] = i
		cfg.Apps[i].Token = token
	}
	return nil
}

// maxToken bounds a token file, against one that is none.
const maxToken = 64 << 10

// readToken reads a token from a file, without the white space around it.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxToken {
		return "", fmt.Errorf("%s is larger than %d KiB: this is no token", path, maxToken>>10)
	}
	token := strings.TrimSpace(string(b))
	if err := config.CheckToken(token); err != nil {
		return "", fmt.Errorf("%s %w", path, err)
	}
	return token, nil
}

func appTLS(t *config.AppTLS) *app.TLS {
	if t == nil {
		return nil
	}
	return &app.TLS{CA: t.CA, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName, Insecure: t.Insecure}
}
