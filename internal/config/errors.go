package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Error is one mistake in a configuration file.
type Error struct {
	File string
	// Line counts from 1; 0 where no line is to blame.
	Line int
	// Path is the key in full, for example clusters[1].resolvers[0].consul.address; empty for the
	// file as a whole.
	Path    string
	Problem string
}

// Error gives "file:line: path: problem".
func (e *Error) Error() string {
	s := e.File + ":"
	if e.Line > 0 {
		s += fmt.Sprintf("%d:", e.Line)
	}
	if e.Path != "" {
		s += " " + e.Path + ":"
	}
	return s + " " + e.Problem
}

// report collects the mistakes of one file, and knows which line each path stands in.
type report struct {
	file  string
	lines map[string]int
	// bad paths have been complained about: what follows from that mistake is not told again.
	bad  map[string]bool
	errs []*Error
}

func newReport(file string) *report {
	return &report{file: file, lines: map[string]int{}, bad: map[string]bool{}}
}

// add notes a mistake at a line that the caller knows.
func (r *report) add(line int, path, format string, args ...any) {
	r.bad[path] = true
	r.errs = append(r.errs, &Error{File: r.file, Line: line, Path: path, Problem: fmt.Sprintf(format, args...)})
}

// errorf notes a mistake at the line of a path, or of the nearest thing around it that is
// written. A second complaint about the same path, or about what it is part of, is dropped.
func (r *report) errorf(path, format string, args ...any) {
	line := 0
	for p := path; ; p = parent(p) {
		if r.bad[p] && p != "" {
			return
		}
		if line == 0 {
			line = r.lines[p]
		}
		if p == "" {
			break
		}
	}
	r.add(line, path, format, args...)
}

// err gives all mistakes in the order of their lines, one per line of text, or nil.
func (r *report) err() error {
	slices.SortStableFunc(r.errs, func(a, b *Error) int { return a.Line - b.Line })
	joined := make([]error, len(r.errs))
	for i, e := range r.errs {
		joined[i] = e
	}
	return errors.Join(joined...)
}

// parent gives the path of what a path is part of: "a.b[1].c", "a.b[1]", "a.b", "a", "".
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// child gives the path of a key in a mapping. Keys come from the file: one that is no plain
// word is quoted, so that a message stays one line.
func child(path, key string) string {
	if strings.ContainsFunc(key, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '/'
	}) || key == "" || len(key) > 64 {
		key = fmt.Sprintf("%.64q", key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
