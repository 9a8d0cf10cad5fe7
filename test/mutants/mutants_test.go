package mutants

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var (
	catch = flag.Bool("catch", false, "build every mutant and run what must catch it")
	only  = flag.String("mutants", "", "a pattern: with -catch, build only the mutants whose name it matches")
)

// What a mutant changes is still there, in one place, so that none of them becomes one of nothing.
func TestMutantsAreOfTheCodeAsItIs(t *testing.T) {
	root := testkit.Root(t)
	names := map[string]bool{}
	for _, m := range table {
		if names[m.name] {
			t.Errorf("two mutants are named %s", m.name)
		}
		names[m.name] = true
		src, err := os.ReadFile(filepath.Join(root, m.file))
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if n := bytes.Count(src, []byte(m.was)); n != 1 {
			t.Errorf("%s: %s has %d times, want once:\n%s", m.name, m.file, n, m.was)
		}
		if m.was == m.now || m.breaks == "" {
			t.Errorf("%s changes nothing, or does not say what it breaks", m.name)
		}
		if _, err := os.Stat(filepath.Join(root, m.folder)); err != nil {
			t.Errorf("%s: its catcher: %v", m.name, err)
		}
	}
}

// verdict is what became of one run of a catcher.
type verdict int

const (
	survived verdict = iota // all tests passed
	caught                  // a test failed
	broken                  // nothing was tested: it does not compile, or no test ran
)

// TestMutantsAreCaught builds each mutant and runs its catcher, which must fail, and which must not
// without it. It takes minutes, so it runs where -catch says so.
func TestMutantsAreCaught(t *testing.T) {
	if !*catch {
		return
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	root, sound := testkit.Root(t), map[string]verdict{}
	var words strings.Builder
	out := tabwriter.NewWriter(&words, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(out, "MUTANT\tCAUGHT BY\tIN\tPROMISE")
	for _, m := range table {
		if !wanted.MatchString(m.name) {
			continue
		}
		key := fmt.Sprint(m.catcher)
		if _, known := sound[key]; !known {
			control, said, _ := m.test(t, root, "")
			if sound[key] = control; control != survived {
				t.Errorf("%s: its catcher fails without it:\n%s", m.name, said)
			}
		}
		if sound[key] != survived {
			continue
		}
		began := time.Now()
		overlay, err := m.overlay(t, root)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		became, said, first := m.test(t, root, overlay)
		switch became {
		case survived:
			t.Errorf("%s survives: nobody holds that %s", m.name, m.breaks)
			first = "NOBODY"
		case broken:
			t.Errorf("%s is not tested:\n%s", m.name, said)
			first = "-"
		}
		t.Logf("%s: %s", m.name, first)
		_, _ = fmt.Fprintf(out, "%s\t%s %s\t%v\t%s\n", m.name, m.folder, first, time.Since(began).Round(time.Second/10), m.breaks)
	}
	_ = out.Flush()
	t.Logf("\n%s", words.String())
}

// overlay writes what tells the compiler to read the mutant's text, and gives the file's name.
func (m mutant) overlay(t *testing.T, root string) (string, error) {
	t.Helper()
	dir, at := t.TempDir(), filepath.Join(root, m.file)
	src, err := os.ReadFile(at)
	if err != nil {
		return "", err
	}
	if n := bytes.Count(src, []byte(m.was)); n != 1 {
		return "", fmt.Errorf("%s has %d times, want once:\n%s", m.file, n, m.was)
	}
	mutated, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutated, bytes.Replace(src, []byte(m.was), []byte(m.now), 1), 0o600); err != nil {
		return "", err
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": {at: mutated}})
	if err != nil {
		return "", err
	}
	return overlay, os.WriteFile(overlay, b, 0o600)
}

var failing = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

// test runs the catcher, over an overlay where there is one, and gives what was said and the first test
// that failed.
func (m mutant) test(t *testing.T, root, overlay string) (became verdict, said, first string) {
	t.Helper()
	args := []string{"test", "-count=1", "-timeout=5m", "-failfast", "-run=" + m.run}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	args = append(append(args, "./"+m.folder), m.args...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	b, err := cmd.CombinedOutput()
	said = string(b)
	if fail := failing.FindStringSubmatch(said); fail != nil {
		return caught, said, fail[1]
	}
	if err != nil || strings.Contains(said, "no tests to run") {
		return broken, said, ""
	}
	return survived, said, ""
}
