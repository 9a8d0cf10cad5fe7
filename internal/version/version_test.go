package version

import (
	"runtime/debug"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestLinkerWinsOverBuildInformation(t *testing.T) {
	vcs := func(revision, modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified}}
	}
	for _, c := range []struct {
		name            string
		version, commit string
		build           *debug.BuildInfo
		want            string
	}{
		{name: "nothing known", want: "devel"},
		{name: "linker only", version: "v1.2.3", commit: "abc", want: "v1.2.3 (commit abc)"},
		{name: "go install", build: &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.0.0"}}, want: "v1.0.0 (go1.26.8)"},
		{name: "checkout",
			build: &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}, Settings: vcs("0123456789abcdef", "false")},
			want:  "devel (commit 0123456789ab, go1.26.8)"},
		{name: "changed checkout",
			build: &debug.BuildInfo{Settings: vcs("0123", "true")}, want: "devel (commit 0123-dirty)"},
		{name: "linker over checkout", version: "v2", commit: "fff",
			build: &debug.BuildInfo{Main: debug.Module{Version: "v1"}, Settings: vcs("0123", "true")}, want: "v2 (commit fff)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := info(c.version, c.commit, c.build).String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if Get().Version == "" {
		t.Error("the test's own binary has no version")
	}
}
