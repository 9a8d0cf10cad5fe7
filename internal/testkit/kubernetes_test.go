package testkit

import (
	"os"
	"strings"
	"testing"
)

func TestKubeconfigSaysWhatItIsTold(t *testing.T) {
	path := Kubeconfig{Server: "https://127.0.0.1:1", TokenFile: "/a/token"}.Write(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(b); !strings.Contains(text, `cluster: {server: "https://127.0.0.1:1"}`) || !strings.Contains(text, `{tokenFile: "/a/token"}`) {
		t.Errorf("it says\n%s", text)
	}
}
