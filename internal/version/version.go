// Package version says which Farcall a binary is. It is not a protocol version: nothing decides
// on it. It runs no goroutines.
package version

import (
	"runtime/debug"
	"strings"
)

// Set by the linker for released binaries:
//
//	-ldflags "-X github.com/farcall/farcall/internal/version.version=v1.2.3
//	          -X github.com/farcall/farcall/internal/version.commit=0123abc"
//
// What the linker does not set is taken from the build information that Go keeps in every binary.
var version, commit string

// Info is what is known of a binary.
type Info struct {
	// Version is a release such as v1.2.3, or "devel".
	Version string `json:"version"`
	// Commit is the revision it was built from, with "-dirty" where the checkout had changes;
	// empty where the build did not know.
	Commit string `json:"commit,omitempty"`
	// Go is the toolchain's version.
	Go string `json:"go,omitempty"`
}

// Get reads the binary that it runs in.
func Get() Info {
	build, _ := debug.ReadBuildInfo() // without build information: nil, of which nothing is known
	return info(version, commit, build)
}

// info joins what the linker said, which wins, with what the build says.
func info(version, commit string, build *debug.BuildInfo) Info {
	i := Info{Version: version, Commit: commit}
	if build == nil {
		build = &debug.BuildInfo{}
	}
	i.Go = build.GoVersion
	if i.Version == "" {
		i.Version = build.Main.Version
	}
	if i.Version == "" || i.Version == "(devel)" {
		i.Version = "devel"
	}
	if i.Commit != "" {
		return i
	}
	dirty := false
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value[:min(len(s.Value), 12)]
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty && i.Commit != "" {
		i.Commit += "-dirty"
	}
	return i
}

// String gives "v1.2.3 (commit 0123abc, go1.26)", less what is not known.
func (i Info) String() string {
	var known []string
	if i.Commit != "" {
		known = append(known, "commit "+i.Commit)
	}
	if i.Go != "" {
		known = append(known, i.Go)
	}
	if len(known) == 0 {
		return i.Version
	}
	return i.Version + " (" + strings.Join(known, ", ") + ")"
}
