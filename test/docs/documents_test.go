//go:build unix

package docs

import (
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/testkit"
)

// needs are the things that tests do not have, and that a block may say it needs.
var needs = []string{"systemd", "kubernetes", "docker", "dapr", "consul", "etcd"}

func TestDocuments(t *testing.T) {
	root := testkit.Root(t)
	docs, err := documents(root)
	if err != nil {
		t.Fatal(err)
	}
	tools := buildTools(t)
	for _, doc := range docs {
		t.Run(doc, func(t *testing.T) { runFile(t, root, tools, doc) })
	}
}

// buildTools builds what the documents' commands find first in their PATH.
func buildTools(t *testing.T) string {
	t.Helper()
	tools := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(tools, "curl"), "./curl").CombinedOutput(); err != nil {
		t.Fatalf("build the curl of the examples: %v\n%s", err, out)
	}
	return tools
}

// runFile runs a document of the repository; servers are those of needs that there are.
func runFile(t *testing.T, root, tools, doc string, servers ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, doc))
	if err != nil {
		t.Fatal(err)
	}
	list, err := blocks(doc, string(text))
	if err != nil {
		t.Fatal(err)
	}
	// The examples name fixed ports. Somebody else's outgoing connection may have drawn one of
	// them for itself, which passes.
	for attempt := 1; ; attempt++ {
		err := runDocument(root, tools, list, servers...)
		if err == nil {
			return
		}
		if attempt == 3 || !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
		t.Logf("once more: %v", err)
	}
}

// runDocument does what each block of a document says, in order.
func runDocument(root, tools string, list []*block, servers ...string) (err error) {
	d := &document{root: root, tools: tools, servers: servers}
	defer func() { err = d.close(err) }()
	for _, b := range list {
		if err := d.do(b); err != nil {
			return fmt.Errorf("%s: %w", b.pos(), err)
		}
	}
	return nil
}

// document is the place that a document is run in, made when the first block needs it.
type document struct {
	root, tools string
	servers     []string // what of needs there is
	dir         string
	shell       *shell
}

func (d *document) do(b *block) error {
	switch {
	case b.lang == "text" && b.kind == "":
		return nil
	case b.lang == "yaml":
		return d.yaml(b)
	case b.lang == "go" && b.kind == "" && b.set["file"] != "":
		return d.golang(b)
	case b.lang == "sh" && b.kind == "" && b.set["needs"] != "" && !slices.Contains(d.servers, b.set["needs"]):
		return checkSyntax(b)
	case b.lang == "sh" && b.kind == "":
		return d.sh(b)
	case b.lang == "console" && b.kind == "":
		return d.console(b)
	}
	return fmt.Errorf("nothing runs a block that is marked %q %q: see test/docs/doc.go", b.lang, b.kind)
}

// yaml reads a configuration. Lines are counted as in the document.
func (d *document) yaml(b *block) error {
	name, text := b.doc, []byte(strings.Repeat("\n", b.line)+b.text)
	var err error
	switch b.kind {
	case "synchronizer":
		_, err = config.ParseSynchronizer(name, text)
	case "agent":
		_, err = config.ParseAgent(name, text)
	case "policy":
		_, err = config.ParsePolicies(name, text)
	case "file":
		err = d.registry(b)
	case "dapr":
		err = readDapr(b.text)
	default:
		return fmt.Errorf("nothing reads yaml that is marked %q: want synchronizer, agent, policy, file or dapr", b.kind)
	}
	if err != nil || b.set["file"] == "" {
		return err
	}
	return d.write(b)
}

func (d *document) registry(b *block) error {
	dir, err := os.MkdirTemp("", "registry")
	if err != nil {
		return err
	}
	return errors.Join(readRegistry(dir, b.text), os.RemoveAll(dir))
}

// golang writes a Go file, which has to be formatted as all Go here is.
func (d *document) golang(b *block) error {
	formatted, err := format.Source([]byte(b.text))
	if err != nil {
		return err
	}
	if string(formatted) != b.text {
		return errors.New("the Go code is not formatted")
	}
	return d.write(b)
}

// write puts a block into the copy of the checkout.
func (d *document) write(b *block) error {
	if err := d.open(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir, b.set["file"]), []byte(b.text), 0o600)
}

func (d *document) sh(b *block) error {
	if err := d.open(); err != nil {
		return err
	}
	if words := b.set["until"]; words != "" {
		return d.shell.until(b.text, words)
	}
	return d.shell.run(b.text)
}

func (d *document) console(b *block) error {
	list := sessions(b.text)
	if len(list) == 0 {
		return errors.New(`no line starts with "$ "`)
	}
	if err := d.open(); err != nil {
		return err
	}
	for _, s := range list {
		if err := d.shell.converse(s); err != nil {
			return err
		}
	}
	return nil
}

// checkSyntax is all that can be done for a block that needs what is not here.
func checkSyntax(b *block) error {
	for _, known := range needs {
		if b.set["needs"] == known {
			cmd := exec.Command("bash", "-n")
			cmd.Stdin = strings.NewReader(b.text)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		}
	}
	return fmt.Errorf("a test can have what is needed, %q; without it are only %v", b.set["needs"], needs)
}

// open copies the checkout and starts the shell in it. The folder's name is short, as unix
// sockets below it must fit into 100 characters.
func (d *document) open() (err error) {
	if d.shell != nil {
		return nil
	}
	if d.dir, err = os.MkdirTemp("", "docs"); err != nil {
		return err
	}
	if err := copyCheckout(d.root, d.dir); err != nil {
		return err
	}
	d.shell, err = newShell(d.dir, d.tools)
	return err
}

// close ends what the blocks started. To the error of a failed document it adds what its
// commands printed.
func (d *document) close(err error) error {
	if d.shell != nil {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, d.shell.outputs())
		}
		err = errors.Join(err, d.shell.close())
	}
	if d.dir != "" {
		err = errors.Join(err, os.RemoveAll(d.dir))
	}
	return err
}

// copyCheckout copies what is kept in the repository, so that a document can be run as if in a
// fresh clone. Reading every file also makes go test run this test again when one changed.
func copyCheckout(from, to string) error {
	return filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && notCopied(from, p) {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case !e.Type().IsRegular():
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, info.Mode().Perm())
	})
}

func TestBlocksThatNobodyRunsAreRefused(t *testing.T) {
	for _, text := range []string{
		"```\nmake\n```\n",
		"```bash\nmake\n```\n",
		"```go\npackage x\n```\n",
		"```go file=x.go\npackage   x\n```\n",
		"```yaml\na: 1\n```\n",
		"```yaml agent\nclutser: east\n```\n",
		"```yaml synchronizer\na: [\n```\n",
		"```yaml file\nservices: [{name: cart, instances: [{id: a, address: 127.0.0.1, port: 70000}]}]\n```\n",
		"```yaml file\nservice: []\n```\n",
		"```sh needs=\"time\"\nmake\n```\n",
		"```sh needs=systemd\nif\n```\n",
		"```console\nmake\n```\n",
	} {
		list, err := blocks("x.md", text)
		if err != nil {
			t.Fatal(err)
		}
		if err := runDocument(t.TempDir(), t.TempDir(), list); err == nil {
			t.Errorf("no error for\n%s", text)
		}
	}
}
