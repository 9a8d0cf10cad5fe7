// Testsummary reads what `go test -json` prints and prints what `go test` would have printed,
// failed tests with all they said, followed by a line of totals. Lines that are not JSON go
// through as they are.
//
// Unlike go test it does not let a skipped test pass: it exits with 1 if a test failed or was
// skipped, and if no test ran at all. It runs no goroutines.
//
// With -alone FILE it writes down, a line each, the packages and tests that are worth a second look:
// where nothing went wrong but that a few tests' own expectations failed, as they may on a machine
// that is starved. A data race, a panic, a leak, a skipped test are never worth one: the file is
// empty then.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() {
	alone := flag.String("alone", "", "`file` for the tests that are worth being run once more, alone")
	flag.Parse()
	s, err := summarise(os.Stdin, os.Stdout)
	if err == nil && *alone != "" {
		err = os.WriteFile(*alone, []byte(strings.Join(s.alone(), "")), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
	fmt.Println(s)
	if !s.good() {
		os.Exit(1)
	}
}

// event is what `go doc test2json` describes, with the fields used here.
type event struct {
	Action  string
	Package string
	Test    string // empty where the event is the package's
	Output  string
}

// summary counts tests, subtests included.
type summary struct {
	passed, failed int
	skipped        []string // "package TestName"
	packages       int
	badPackages    int // failed packages, those that did not compile included

	fell  map[string][]string // by package, its tests that failed
	grave bool                // something failed that is no test's expectation
}

// aloneAtMost is how many tests may be worth a second look: more of them are no accident.
const aloneAtMost = 2

// alone gives those tests, each as a line "package TestName".
func (s *summary) alone() []string {
	var out []string
	for _, pkg := range slices.Sorted(maps.Keys(s.fell)) {
		for _, test := range s.fell[pkg] {
			out = append(out, pkg+" "+test+"\n")
		}
	}
	if s.grave || len(s.skipped) > 0 || len(out) > aloneAtMost {
		return nil
	}
	return out
}

func (s *summary) good() bool {
	return s.failed == 0 && s.badPackages == 0 && len(s.skipped) == 0 && s.passed > 0
}

// String gives the line of totals, after one line for each skipped test.
func (s *summary) String() string {
	var b strings.Builder
	for _, t := range s.skipped {
		fmt.Fprintf(&b, "SKIPPED %s\n", t)
	}
	verdict := "ok"
	if !s.good() {
		verdict = "NOT OK"
	}
	fmt.Fprintf(&b, "%s: %d passed, %d failed, %d skipped tests in %d packages, %d packages failed",
		verdict, s.passed, s.failed, len(s.skipped), s.packages, s.badPackages)
	return b.String()
}

// summarise reads events until the end of r.
func summarise(r io.Reader, w io.Writer) (*summary, error) {
	s := &summary{fell: map[string][]string{}}
	said := map[string][]string{} // package and test: its output so far
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				fmt.Fprint(w, line)
			} else {
				s.add(e, said, w)
			}
		}
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (s *summary) add(e event, said map[string][]string, w io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "output":
		s.grave = s.grave || strings.Contains(e.Output, "WARNING: DATA RACE") || strings.HasPrefix(e.Output, "panic: ") || strings.HasPrefix(e.Output, "fatal error: ")
		said[key] = append(said[key], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e, said, w)
		} else {
			s.endTest(e, key, said[key], w)
		}
		delete(said, key)
	}
}

func (s *summary) endTest(e event, key string, lines []string, w io.Writer) {
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		if !strings.Contains(e.Test, "/") {
			s.fell[e.Package] = append(s.fell[e.Package], e.Test)
		}
		for _, line := range lines {
			if !strings.HasPrefix(line, "=== ") {
				fmt.Fprint(w, line)
			}
		}
	case "skip":
		s.skipped = append(s.skipped, key)
	}
}

// endPackage prints the package's own lines, the verdict last, and where it failed, before them,
// what belongs to no test (a panic, a leaked goroutine) or to tests that never came to an end.
func (s *summary) endPackage(e event, said map[string][]string, w io.Writer) {
	s.packages++
	own := e.Package + " "
	if e.Action == "fail" {
		s.badPackages++
		s.grave = s.grave || len(s.fell[e.Package]) == 0
		for _, key := range slices.Sorted(maps.Keys(said)) {
			if key != own && strings.HasPrefix(key, own) {
				fmt.Fprint(w, strings.Join(said[key], ""))
				delete(said, key)
			}
		}
	}
	for _, line := range said[own] {
		if e.Action == "fail" || strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "?   \t") {
			fmt.Fprint(w, line)
		}
	}
}
