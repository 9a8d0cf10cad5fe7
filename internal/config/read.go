package config

import (
	"fmt"
	"io"
	"os"
)

// maxSize bounds a configuration file.
const maxSize = 4 << 20

// A Check says what a registry's own room finds wrong with a block that is otherwise right, or
// nil. It touches no file. What it joins (errors.Join) are mistakes of their own.
type Check func(Resolver) error

// ReadSynchronizer reads and validates a synchronizer's configuration file. The error names
// every mistake, one a line; each of them is an *Error.
func ReadSynchronizer(path string, checks ...Check) (*Synchronizer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseSynchronizer(path, data, checks...)
}

// ReadAgent reads and validates an agent's configuration file. The error names every mistake,
// one a line; each of them is an *Error.
func ReadAgent(path string, checks ...Check) (*Agent, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseAgent(path, data, checks...)
}

// ParseSynchronizer is ReadSynchronizer for text that was read already; name is the file's in
// messages.
func ParseSynchronizer(name string, data []byte, checks ...Check) (*Synchronizer, error) {
	s := &Synchronizer{}
	r, fatal := decode(name, data, s)
	if !fatal {
		v := &validator{report: r, checks: checks}
		v.synchronizer(s)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseAgent is ReadAgent for text that was read already; name is the file's in messages.
func ParseAgent(name string, data []byte, checks ...Check) (*Agent, error) {
	a := &Agent{}
	r, fatal := decode(name, data, a)
	if !fatal {
		v := &validator{report: r, checks: checks}
		v.agent(a)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return a, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if len(data) > maxSize {
		return nil, &Error{File: path, Problem: fmt.Sprintf("is larger than %d MiB: this is no configuration", maxSize>>20)}
	}
	return data, nil
}
