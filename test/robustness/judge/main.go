// Judge judges histories of the robustness suite again, from their files: what each episode's faults
// were, and which promise was broken. It judges by the code as it is now, and runs no goroutines.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

// main judges the files that are its arguments; its exit code is 1 where a promise was broken or a file
// cannot be read.
func main() {
	code := 0
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: judge HISTORY...")
		code = 2
	}
	for _, name := range os.Args[1:] {
		broken, err := judge(os.Stdout, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if err != nil || broken > 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// judge writes what is to be said of a file's episodes, and counts the violations.
func judge(out io.Writer, name string) (broken int, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	events, err := history.Read(file)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err) // the last line may be cut: what is before it is judged
	}
	for _, e := range history.Episodes(events) {
		found := verdict.Judge(e)
		broken += len(found)
		fmt.Fprintf(out, "%s: episode %d: %s: %d violations\n", name, e[len(e)-1].Episode, faults(e), len(found))
		for _, v := range found {
			fmt.Fprintf(out, "  %v\n", v)
		}
	}
	return broken, err
}

// faults names the faults of an episode, as they ended.
func faults(events []history.Event) string {
	var out []string
	for _, e := range events {
		if f := e.Fault; f != nil && f.Ended {
			out = append(out, fmt.Sprintf("%s (%s): %s", f.Kind, f.Target, f.Effect))
		}
	}
	return strings.Join(out, "; ")
}
