// Package drift tests, with a synchronizer and agents' uplinks in one process and real gRPC between
// them, that what an agent holds comes back to what it was sent, and how a great many of them come back
// at once.
package drift
