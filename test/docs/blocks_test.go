package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// block is one fenced code block.
type block struct {
	doc  string // path in the repository
	line int    // of the opening fence
	lang string
	kind string            // the first word behind the language that sets nothing
	set  map[string]string // words of the form key=value
	text string
}

func (b *block) pos() string { return fmt.Sprintf("%s:%d", b.doc, b.line) }

// documents lists the Markdown files of the repository at root.
func documents(root string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && notCopied(root, p) {
			return fs.SkipDir
		}
		if strings.HasSuffix(p, ".md") {
			rel, err := filepath.Rel(root, p)
			out = append(out, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	return out, err
}

// notCopied reports whether a folder holds nothing that is kept in the repository.
func notCopied(root, p string) bool {
	rel, err := filepath.Rel(root, p)
	return err == nil && (rel == ".git" || rel == "bin" || rel == filepath.Join("test", "servers", "bin"))
}

var setting = regexp.MustCompile(`(\w+)=("[^"]*"|\S+)`)

// blocks gives the code blocks of a document in order.
func blocks(doc, text string) ([]*block, error) {
	var out []*block
	var open *block
	var indent string
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimLeft(line, " ")
		switch {
		case open == nil && strings.HasPrefix(trimmed, "```"):
			indent = line[:len(line)-len(trimmed)]
			open = parseInfo(strings.TrimPrefix(trimmed, "```"))
			open.doc, open.line = doc, i+1
		case open != nil && strings.TrimRight(trimmed, " ") == "```":
			out, open = append(out, open), nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block is not closed", open.pos())
	}
	return out, nil
}

// parseInfo reads what stands behind an opening fence.
func parseInfo(info string) *block {
	b := &block{set: map[string]string{}}
	for _, m := range setting.FindAllStringSubmatch(info, -1) {
		b.set[m[1]] = strings.Trim(m[2], `"`)
	}
	for i, word := range strings.Fields(setting.ReplaceAllString(info, "")) {
		switch i {
		case 0:
			b.lang = word
		case 1:
			b.kind = word
		default:
			b.kind += " " + word
		}
	}
	return b
}

func TestBlocks(t *testing.T) {
	got, err := blocks("x.md", "a\n```yaml agent file=a.yaml\nb: 1\n```\n\n  ```sh until=\"now up\"\n  make\n    x\n  ```\n")
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v, want two blocks", got, err)
	}
	if b := got[0]; b.pos() != "x.md:2" || b.lang != "yaml" || b.kind != "agent" || b.set["file"] != "a.yaml" || b.text != "b: 1\n" {
		t.Errorf("first block: %+v", b)
	}
	if b := got[1]; b.pos() != "x.md:6" || b.lang != "sh" || b.kind != "" || b.set["until"] != "now up" || b.text != "make\n  x\n" {
		t.Errorf("second block: %+v", b)
	}
	if _, err := blocks("x.md", "```sh\nmake\n"); err == nil {
		t.Error("an open block: no error")
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	root := testkit.Root(t)
	docs, err := documents(root)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, doc := range docs {
		text, err := os.ReadFile(filepath.Join(root, doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			checked++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(doc), target)); err != nil {
				t.Errorf("%s: a link to %s: %v", doc, m[1], err)
			}
		}
	}
	if checked == 0 {
		t.Error("no links were found: nothing was checked")
	}
}
