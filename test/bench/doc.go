// Package bench measures the line as a whole, each figure beside a floor measured in the same
// run. The figures are printed, never asserted: `make bench` runs them.
package bench
