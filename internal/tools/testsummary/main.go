// Testsummary reads what `go test -json` prints and prints what `go test` would have printed,
// failed tests with all they said, followed by a line of totals. Lines that are not JSON go
// through as they are.
//
// Unlike go test it does not let a skipped test pass: it exits with 1 if a test failed or was
// skipped, and if no test ran at all. It runs no goroutines.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() {
	s, err := summarise(os.Stdin, os.Stdout)
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
	s := &summary{}
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
