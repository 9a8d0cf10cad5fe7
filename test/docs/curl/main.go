// Curl is what the documents' examples run as curl, so that testing them needs no program that
// may be missing. It understands the options they use and refuses every other. It is not shipped.
//
// It runs no goroutines.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		os.Exit(1)
	}
}

type call struct {
	method, url, body string
	header            http.Header
	showHead, failing bool
}

func run(args []string) error {
	c := call{header: http.Header{}}
	for len(args) > 0 {
		rest, err := c.take(args)
		if err != nil {
			return err
		}
		args = rest
	}
	if c.method == "" {
		c.method = http.MethodGet
	}
	return c.do()
}

// take reads one option or the URL from the front of args and gives what is left.
func (c *call) take(args []string) ([]string, error) {
	arg := args[0]
	if !strings.HasPrefix(arg, "-") {
		c.url = arg
		if !strings.Contains(arg, "://") {
			c.url = "http://" + arg
		}
		return args[1:], nil
	}
	if arg == "-d" || arg == "-H" || arg == "-X" {
		if len(args) < 2 {
			return nil, fmt.Errorf("%s wants a value", arg)
		}
		return args[2:], c.set(arg, args[1])
	}
	for _, letter := range arg[1:] {
		switch letter {
		case 's', 'S': // it is silent anyway, and says its errors anyway
		case 'i':
			c.showHead = true
		case 'f':
			c.failing = true
		default:
			return nil, fmt.Errorf("this stand-in does not know -%c", letter)
		}
	}
	return args[1:], nil
}

func (c *call) set(option, value string) error {
	switch option {
	case "-X":
		c.method = value
	case "-d":
		c.body = value
		if c.method == "" {
			c.method = http.MethodPost
		}
	case "-H":
		k, v, ok := strings.Cut(value, ":")
		if !ok {
			return fmt.Errorf("%q is not a header", value)
		}
		c.header.Add(k, strings.TrimSpace(v))
	}
	return nil
}

func (c *call) do() error {
	req, err := http.NewRequestWithContext(context.Background(), c.method, c.url, strings.NewReader(c.body))
	if err != nil {
		return err
	}
	req.Header = c.header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if c.failing && resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	if c.showHead {
		fmt.Printf("%s %s\r\n", resp.Proto, resp.Status)
		for k, vs := range resp.Header {
			fmt.Printf("%s: %s\r\n", strings.ToLower(k), strings.Join(vs, ", "))
		}
		fmt.Print("\r\n")
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
