package docs

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

// provenBy heads the last column of a table whose rows name their tests.
const provenBy = "Proven by"

// proof is one test, and whether CI runs it: `make test` runs all that need no tag, `make test-real` those
// called TestReal… that need the tag real.
type proof struct {
	folder string // in the repository, with slashes
	name   string
	runs   bool
}

// proofs lists the tests of the module at root.
func proofs(root string) ([]proof, error) {
	var out []proof
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (notCopied(root, p) || unbuilt(p, d.Name())) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		found, err := proofsIn(filepath.ToSlash(rel), d.Name(), text)
		out = append(out, found...)
		return err
	})
	return out, err
}

// unbuilt reports whether `go test ./...` passes a folder by: another module's, or data.
func unbuilt(p, name string) bool {
	_, err := os.Stat(filepath.Join(p, "go.mod"))
	return err == nil || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

// proofsIn lists the tests of one file.
func proofsIn(folder, file string, text []byte) ([]proof, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	plain, real := builds(f, false), builds(f, true)
	var out []proof
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !isTest(fn) {
			continue
		}
		out = append(out, proof{folder, fn.Name.Name, plain || real && strings.HasPrefix(fn.Name.Name, "TestReal")})
	}
	return out, nil
}

func isTest(fn *ast.FuncDecl) bool {
	rest, ok := strings.CutPrefix(fn.Name.Name, "Test")
	return ok && fn.Name.Name != "TestMain" && (rest == "" || rest[0] < 'a' || rest[0] > 'z') && fn.Type.Params.NumFields() == 1
}

// builds reports whether a file is built where CI runs, with the tag real or without it.
func builds(f *ast.File, real bool) bool {
	for _, group := range f.Comments {
		if group.Pos() > f.Package {
			break
		}
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			expr, err := constraint.Parse(c.Text)
			if err != nil || !expr.Eval(func(tag string) bool {
				switch tag {
				case "linux", "unix":
					return true
				case "real":
					return real
				}
				return strings.HasPrefix(tag, "go1.")
			}) {
				return false
			}
		}
	}
	return true
}

// tested is `TestName`, or `folder.TestName` where several folders have one of that name; a subtest stands
// behind a slash.
var tested = regexp.MustCompile("`(?:([a-z][a-z0-9/]*)\\.)?(Test[A-Z0-9]\\w*)(?:/[^`]+)?`")

// unproven says what is wrong with the tests that a text names.
func unproven(text string, all []proof) []string {
	var out []string
	for _, m := range tested.FindAllStringSubmatch(text, -1) {
		var here []proof
		for _, p := range all {
			if p.name == m[2] && (m[1] == "" || p.folder == m[1]) {
				here = append(here, p)
			}
		}
		switch {
		case len(here) == 0:
			out = append(out, m[0]+": there is no such test")
		case len(here) > 1:
			out = append(out, fmt.Sprintf("%s: is in %s and in %s: say which", m[0], here[0].folder, here[1].folder))
		case !here[0].runs:
			out = append(out, m[0]+": CI does not run it: it needs a tag, and is not called TestReal…")
		}
	}
	return out
}

// row is a table's row, with the cell that its test stands in.
type row struct {
	line int
	what string // the first cell
	last string // the last one
}

// rows gives the rows of a document's tables. A table without the column for tests is an error.
func rows(text string) (out []row, err error) {
	table := false
	for n, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "|") {
			table = false
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		last := cells[len(cells)-1]
		switch {
		case !table:
			if table = true; last != provenBy {
				return nil, fmt.Errorf("line %d: the table's last column is %q, want %q", n+1, last, provenBy)
			}
		case strings.Trim(last, "-: ") != "":
			out = append(out, row{n + 1, cells[0], last})
		default:
			if strings.Trim(strings.Join(cells, ""), "-: ") != "" {
				out = append(out, row{n + 1, cells[0], ""})
			}
		}
	}
	return out, nil
}

// check says what is wrong with a document of which every row has to be proven.
func check(text string, all []proof) []string {
	list, err := rows(text)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, r := range list {
		if !tested.MatchString(r.last) {
			out = append(out, fmt.Sprintf("line %d: %.60s: names no test", r.line, r.what))
		}
	}
	for n, line := range strings.Split(text, "\n") {
		for _, wrong := range unproven(line, all) {
			out = append(out, fmt.Sprintf("line %d: %s", n+1, wrong))
		}
	}
	return out
}

// TestFailureModesAreProven holds every row of failure-modes.md, and whatever test is named anywhere in it,
// to a test that CI runs.
func TestFailureModesAreProven(t *testing.T) {
	root := testkit.Root(t)
	all, err := proofs(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 1000 {
		t.Fatalf("%d tests were found, which cannot be all", len(all))
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "failure-modes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range check(string(text), all) {
		t.Errorf("docs/failure-modes.md: %s", wrong)
	}
	list, err := rows(string(text))
	if err != nil || len(list) < 60 {
		t.Errorf("%d rows, %v: there should be more", len(list), err)
	}
	names := map[string]bool{}
	for _, m := range tested.FindAllStringSubmatch(string(text), -1) {
		names[path.Join(m[1], m[2])] = true
	}
	t.Logf("%d rows, proven by %d tests", len(list), len(names))
}

func TestProofsAreFound(t *testing.T) {
	const head = "package x\nimport \"testing\"\n"
	var all []proof
	for file, text := range map[string]string{
		"a/plain_test.go":  head + "func TestPlain(t *testing.T) {}\nfunc TestMain(m *testing.M) {}\nfunc Testing(t *testing.T) {}\nfunc (x) TestMethod(t *testing.T) {}\nfunc helper() {}\n",
		"b/plain_test.go":  head + "func TestTwice(t *testing.T) {}\n",
		"c/plain_test.go":  head + "func TestTwice(t *testing.T) {}\n",
		"d/real_test.go":   "//go:build real && linux\n\n" + head + "func TestRealServer(t *testing.T) {}\nfunc TestNotCalledSo(t *testing.T) {}\n",
		"e/other_test.go":  "//go:build soak\n\n" + head + "func TestSoak(t *testing.T) {}\n",
		"f/other_test.go":  "//go:build real && soak\n\n" + head + "func TestRealSoak(t *testing.T) {}\n",
		"g/unreal_test.go": "//go:build !real\n\n" + head + "func TestWithout(t *testing.T) {}\n",
		"h/win_test.go":    "//go:build windows\n\n" + head + "func TestElsewhere(t *testing.T) {}\n",
	} {
		found, err := proofsIn(path.Dir(file), path.Base(file), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b proof) int { return cmp.Or(cmp.Compare(a.folder, b.folder), cmp.Compare(a.name, b.name)) })
	want := []proof{
		{"a", "TestPlain", true}, {"b", "TestTwice", true}, {"c", "TestTwice", true},
		{"d", "TestNotCalledSo", false}, {"d", "TestRealServer", true}, {"e", "TestSoak", false},
		{"f", "TestRealSoak", false}, {"g", "TestWithout", true}, {"h", "TestElsewhere", false},
	}
	if !slices.Equal(all, want) {
		t.Fatalf("found %v, want %v", all, want)
	}
	const table = "| What | Proven by |\n|---|---|\n"
	for text, wrong := range map[string]string{
		table + "| a | `TestPlain` |\n":                                        "",
		table + "| a | `TestPlain/a part`, `TestRealServer` |\n":               "",
		table + "| a | `b.TestTwice` |\n":                                      "",
		table + "| a | `TestTwice` |\n":                                        "say which",
		table + "| a | |\n":                                                    "names no test",
		table + "| a | by thought |\n":                                         "names no test",
		table + "| a | `TestPlane` |\n":                                        "no such test",
		table + "| a | `a.TestTwice` |\n":                                      "no such test",
		table + "| a | `TestSoak` |\n":                                         "CI does not run it",
		table + "| a | `TestRealSoak` |\n":                                     "CI does not run it",
		table + "| a | `TestNotCalledSo` |\n":                                  "CI does not run it",
		"| What | Where |\n|---|---|\n| a | b |\n":                             "last column",
		table + "| a | `TestPlain` |\n\nIn words: `TestPlane`.\n":              "no such test",
		table + "| a | `TestPlain` |\n\n| b |\n|---|\n| c |\n":                 "last column",
		table + "| a `TestPlain` in another column | |\n":                      "names no test",
		table + "| a | `TestPlain` |\n| b, with no end\n| c | `TestPlain` |\n": "names no test",
	} {
		got := strings.Join(check(text, all), "; ")
		if (got == "") != (wrong == "") || !strings.Contains(got, wrong) {
			t.Errorf("%q: %q, want %q", text, got, wrong)
		}
	}
}
