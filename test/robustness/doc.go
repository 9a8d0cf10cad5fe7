// Package robustness is a suite of random faults: a federation of real processes, callers, changes
// and observers; everything that happens is written down, and judged afterwards. It has no code but
// its tests, and the packages below it: history writes down, verdict judges. docs/robustness.md says how to run it and how to read what it prints.
package robustness
