package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const module = "github.com/farcall/farcall"

// file is one Go file of this module, whatever its build tags.
type file struct {
	path      string // in the repository
	dir       string
	test      bool
	generated bool
	ast       *ast.File
	fset      *token.FileSet
	lines     int
}

// pos says where a node is, for people.
func (f *file) pos(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(n.Pos()).Line)
}

// imports gives the import paths of a file.
func (f *file) imports() []string {
	out := make([]string, len(f.ast.Imports))
	for i, spec := range f.ast.Imports {
		out[i], _ = strconv.Unquote(spec.Path.Value) // the parser took it, so it is a literal
	}
	return out
}

// qualified gives the local name of an imported package in f, or "" where f does not import it.
func (f *file) qualified(importPath string) string {
	for i, p := range f.imports() {
		if p != importPath {
			continue
		}
		if name := f.ast.Imports[i].Name; name != nil {
			return name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// uses calls found for each mention of a name of an imported package in f.
func (f *file) uses(importPath string, found func(name string, n ast.Node)) {
	local := f.qualified(importPath)
	if local == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
				found(sel.Sel.Name, sel)
			}
		}
		return true
	})
}

// sources parses every Go file of the module once.
var sources = sync.OnceValues(func() ([]*file, error) {
	root := filepath.Join("..", "..")
	var out []*file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipForeign(root, p, d)
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parse(root, p)
		out = append(out, f)
		return err
	})
	return out, err
})

// skipForeign leaves out folders that hold no packages of this module.
func skipForeign(root, p string, d fs.DirEntry) error {
	if p == root {
		return nil
	}
	if name := d.Name(); strings.HasPrefix(name, ".") || name == "testdata" {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parse(root, p string) (*file, error) {
	src, err := os.ReadFile(p)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, p)
	if err != nil {
		return nil, err
	}
	f := &file{path: filepath.ToSlash(rel), fset: token.NewFileSet(), lines: strings.Count(string(src), "\n")}
	f.dir, f.test = path.Dir(f.path), strings.HasSuffix(p, "_test.go")
	f.ast, err = parser.ParseFile(f.fset, p, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	f.generated = ast.IsGenerated(f.ast)
	return f, nil
}

// written gives the files that people wrote; it fails the test if there is none, as nothing
// would be checked then.
func written(t *testing.T, keep func(*file) bool) []*file {
	t.Helper()
	all, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	var out []*file
	for _, f := range all {
		if !f.generated && keep(f) {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		t.Fatal("no files: nothing was checked")
	}
	return out
}

func product(f *file) bool { return !f.test }
func tests(f *file) bool   { return f.test }

// byDir groups files by folder.
func byDir(files []*file) map[string][]*file {
	out := map[string][]*file{}
	for _, f := range files {
		out[f.dir] = append(out[f.dir], f)
	}
	return out
}
