package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farcall/farcall/agent"
	"github.com/farcall/farcall/internal/config"
)

func TestTokens(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "\n hush-file \r\n")
	for name, c := range map[string]struct {
		tokens Tokens
		apps   []config.App
		want   []string // of the applications
		err    string
	}{
		"none":              {},
		"from all places":   {tokens: Tokens{API: "hush-api", App: "hush-app"}, apps: []config.App{{Token: "hush-own"}, {TokenFile: good}, {}}, want: []string{"hush-own", "hush-file", ""}},
		"no file":           {apps: []config.App{{}, {TokenFile: filepath.Join(dir, "none")}}, err: "apps[1].tokenFile: open "},
		"an empty file":     {apps: []config.App{{TokenFile: file("empty", " \n")}}, err: "apps[0].tokenFile: " + filepath.Join(dir, "empty") + " is empty: want a token"},
		"a file of two":     {apps: []config.App{{TokenFile: file("two", "hush\nhush\n")}}, err: "holds a character that no header takes"},
		"a large file":      {apps: []config.App{{TokenFile: file("large", strings.Repeat("hush", maxToken))}}, err: "is larger than 64 KiB"},
		"the same twice":    {apps: []config.App{{Token: "hush-file"}, {}, {TokenFile: good}}, err: "apps[2] has the token of apps[0]"},
		"a wrong API token": {tokens: Tokens{API: "hush\n"}, err: "DAPR_API_TOKEN holds a character that no header takes"},
		"a wrong app token": {tokens: Tokens{App: " hush"}, err: "APP_API_TOKEN begins or ends with a space"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := agent.Config{Apps: make([]agent.App, len(c.apps))}
			err := c.tokens.into(&cfg, c.apps)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hush") {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || cfg.APIToken != c.tokens.API.Value() || cfg.AppToken != c.tokens.App.Value() {
				t.Fatalf("got %q and %q, %v", cfg.APIToken, cfg.AppToken, err)
			}
			for i, want := range c.want {
				if cfg.Apps[i].Token != want {
					t.Errorf("apps[%d]: got %q, want %q", i, cfg.Apps[i].Token, want)
				}
			}
		})
	}
}

func TestTokensFromEnvironment(t *testing.T) {
	t.Setenv("DAPR_API_TOKEN", "one")
	t.Setenv("APP_API_TOKEN", "two")
	if got := TokensFromEnvironment(); got.API.Value() != "one" || got.App.Value() != "two" {
		t.Errorf("got %q and %q", got.API.Value(), got.App.Value())
	}
}
