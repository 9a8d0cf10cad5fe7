// Echo is an application of the tests that runs on hosts of its own: an HTTP server that
// says who it is. It knows nothing of Farcall, and has no goroutines but the server's.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

// main serves at the address that is the first argument, in the name that is the second.
func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller is gone
		}
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RequestURI(), os.Args[2], b)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], nil)) //nolint:gosec // it serves the tests only
	os.Exit(1)
}
