// Package e2e tests the built programs as people run them: processes, configuration files,
// HTTP and gRPC. Each file holds one promise of the README or the design.
package e2e
