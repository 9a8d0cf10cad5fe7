package config

import (
	"fmt"
	"io"
	"os"
)

// maxSize bounds a configuration file.
const maxSize = 4 << 20

// ReadSynchronizer reads and validates a synchronizer's configuration file. The error names
// every mistake, one a line; each of them is an *Error.
func ReadSynchronizer(path string) (*Synchronizer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseSynchronizer(path, data)
}

// ReadAgent reads and validates an agent's configuration file. The error names every mistake,
// one a line; each of them is an *Error.
func ReadAgent(path string) (*Agent, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseAgent(path, data)
}

// ParseSynchronizer is ReadSynchronizer for text that was read already; name is the file's in
// messages.
func ParseSynchronizer(name string, data []byte) (*Synchronizer, error) {
	s := &Synchronizer{}
	r, fatal := decode(name, data, s)
	if !fatal {
		v := &validator{report: r}
		v.synchronizer(s)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseAgent is ReadAgent for text that was read already; name is the file's in messages.
func ParseAgent(name string, data []byte) (*Agent, error) {
	a := &Agent{}
	r, fatal := decode(name, data, a)
	if !fatal {
		v := &validator{report: r}
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
