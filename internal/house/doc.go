// Package house holds the tests that hold the repository's shape: who may import whom, which
// rooms read no clock, how large a file may grow.
//
// It is not linked into anything, has no code of its own and runs no goroutines. What a linter
// can say is said in .golangci.yml instead.
package house
