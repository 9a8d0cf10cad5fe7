//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// page gives the body of a page that answers 200 within two seconds.
func page(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

// patientPage is page of somebody who is up, and has perhaps much to do: it asks for a minute.
func patientPage(ctx context.Context, url string) (string, error) {
	for deadline := time.Now().Add(time.Minute); ; {
		text, err := page(ctx, url)
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil || !pause(ctx, 50*time.Millisecond) {
			return text, err
		}
	}
}
