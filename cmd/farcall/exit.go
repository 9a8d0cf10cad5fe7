package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// Exit codes of every verb. They are documented in farcall --help and docs/cli.md, and scripts
// rely on them: not renumbered.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRefused     = 4
	exitUnavailable = 5
	exitDeadline    = 6
	exitConflict    = 7
	exitInterrupted = 130
)

var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitFailed, "failed; for call also: the application answered otherwise than 2xx, or nobody knows whether it was executed; for check: something is wrong"},
	{exitUsage, "the command line is wrong"},
	{exitUnreachable, "unreachable: nobody answers at --server or --agent"},
	{exitRefused, "not found, or refused as wrong or not allowed"},
	{exitUnavailable, "unavailable: nobody can serve it now, and nothing was executed"},
	{exitDeadline, "the deadline passed; for what is written with --wait: it is written, and not every agent applied it in time"},
	{exitConflict, "conflict: what is stored has another revision than --if-revision says, and nothing was written"},
	{exitInterrupted, "interrupted by a signal"},
}

func exitCodeHelp() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "  %3d  %s\n", c.code, c.meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// exitError is an error that knows its exit code and, where there is one, what to do about it.
type exitError struct {
	code int
	err  error
	hint string
	// lines are told one below the other, where there is more to say than err does.
	lines []string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// withCode gives an error its exit code, unless it has one already.
func withCode(err error, code int) error {
	var has *exitError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &exitError{code: code, err: err}
}

func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// report tells a person what went wrong and gives the exit code. Errors without a code are
// cobra's about the command line.
func report(cmd *cobra.Command, err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	e := &exitError{code: exitUsage, err: err}
	errors.As(err, &e)
	fmt.Fprintf(stderr, "farcall: %s\n", clean(strings.Join(strings.Fields(err.Error()), " ")))
	for _, line := range e.lines {
		fmt.Fprintf(stderr, "  %s\n", clean(line))
	}
	hint := e.hint
	if hint == "" && e.code == exitUsage {
		hint = cmd.CommandPath() + " --help says what it takes"
	}
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", clean(hint))
	}
	return e.code
}

// clean makes one harmless line of what a registry, a server or an application wrote: a
// terminal obeys control characters.
func clean(s string) string {
	s = strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(s)
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != ' ' {
			return '?'
		}
		return r
	}, s)
}
