// Package deploy holds the tests of the examples in deploy/: the configurations in them are
// valid, and what the manifests say of ports, files and programs agrees with them.
//
// No cluster and no service manager runs here; it has no code but tests and runs no goroutines.
package deploy
