package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farcall/farcall/internal/testkit"
)

// verbs lists the commands that do something, as they are typed, and what each flag of them is
// documented as.
func verbs(cmd *cobra.Command, out map[string][]string) {
	for _, c := range cmd.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		shown := slices.ContainsFunc(c.Commands(), func(c *cobra.Command) bool { return !c.Hidden })
		if !shown {
			flags := []string{}
			c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "help" {
					flags = append(flags, f.Name)
				}
			})
			out[strings.TrimPrefix(c.CommandPath(), "farcall ")] = flags
		}
		verbs(c, out)
	}
}

func TestDocumentNamesVerbsFlagsAndExitCodes(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	root := newRoot(nil, nil, nil)
	all := map[string][]string{}
	verbs(root, all)
	for verb, flags := range all {
		if !regexp.MustCompile("(?m)^\\| `farcall " + verb + "[ `].*\\|$").MatchString(text) {
			t.Errorf("docs/cli.md has no line for farcall %s", verb)
		}
		for _, flag := range flags {
			if !regexp.MustCompile("(?m)^\\| (`-.`, )?`--" + flag + "` \\|[^|]*\\b" + verb + "\\b[^|]*\\|").MatchString(text) {
				t.Errorf("docs/cli.md has no line for --%s of %s", flag, verb)
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `farcall ([a-z ]+[a-z])[ `]").FindAllStringSubmatch(text, -1) {
		if _, ok := all[m[1]]; !ok {
			t.Errorf("docs/cli.md has a line for farcall %s, which there is not", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| (?:`-.`, )?`--([a-z-]+)` \\| ([a-z, ]+) \\|").FindAllStringSubmatch(text, -1) {
		for verb := range strings.SplitSeq(m[2], ", ") {
			if !slices.Contains(all[verb], m[1]) {
				t.Errorf("docs/cli.md has a line for --%s of %s, which there is not", m[1], verb)
			}
		}
	}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(text, fmt.Sprintf("`--%s` | `%s` |", f.Name, f.DefValue)) {
			t.Errorf("docs/cli.md has no line for --%s with the default %s", f.Name, f.DefValue)
		}
	})
	for _, c := range exitCodes {
		if !strings.Contains(text, fmt.Sprintf("\n| %d | %s |\n", c.code, c.meaning)) {
			t.Errorf("docs/cli.md does not say that %d is: %s", c.code, c.meaning)
		}
		if help := fmt.Sprintf("%3d  %s", c.code, c.meaning); !strings.Contains(root.Long, help) {
			t.Errorf("farcall --help lacks %q", help)
		}
	}
}
