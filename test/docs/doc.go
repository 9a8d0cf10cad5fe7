// Package docs holds the tests that hold the documents to their word: every code block of every
// Markdown file here is run or parsed, and every link leads somewhere.
//
// What happens to a block is said behind its opening fence:
//
//	```sh                     typed into one shell per document, in a fresh copy of the checkout
//	```sh until="some words"  the same, but it stays up: ^C once it has printed the words
//	```sh needs="systemd"     cannot be run by a test; only its syntax is checked. What needs etcd is run
//	                          by TestRealDocuments, which has one
//	```console                "$ " lines as in sh, asked again for up to 30 s until they succeed and
//	                          print what follows; ... stands for anything
//	```yaml synchronizer      (or agent, policy, file, dapr) read as that configuration; with file=NAME it is also
//	                          written into the copy, for the shell blocks below it
//	```go file=NAME           formatted, and written into the copy
//	```text                   a picture
//
// Any other block fails the test: what nobody runs is wrong one day.
//
// It is not an end-to-end suite, and it has no code but tests. The goroutines these run end with
// them.
package docs
