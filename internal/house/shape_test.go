package house

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// A reader takes in a file at a sitting and a function at a glance.
const (
	maxFileLines     = 500
	maxTestFileLines = 800
	maxFuncLines     = 80
)

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	for _, f := range written(t, func(*file) bool { return true }) {
		limit := maxFileLines
		if f.test {
			limit = maxTestFileLines
		}
		if f.lines > limit {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, limit)
		}
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
				t.Errorf("%s: %s has %d lines, more than %d", f.pos(fn), fn.Name.Name, n, maxFuncLines)
			}
		}
	}
}

func TestEachPackageHasOneComment(t *testing.T) {
	for dir, files := range byDir(written(t, product)) {
		var with []string
		for _, f := range files {
			if f.ast.Doc != nil {
				with = append(with, f.path)
				checkComment(t, f, slices.ContainsFunc(files, startsGoroutines))
			}
		}
		if len(with) != 1 {
			t.Errorf("%s: want one package comment, found %d %v", dir, len(with), with)
		}
	}
}

// checkComment wants "Package x ..." as go doc does, and for a command its name first. Where the
// package starts goroutines, the comment speaks of them.
func checkComment(t *testing.T, f *file, concurrent bool) {
	t.Helper()
	doc, name := f.ast.Doc.Text(), f.ast.Name.Name
	if name == "main" {
		if !strings.EqualFold(strings.Fields(doc)[0], path.Base(f.dir)) {
			t.Errorf("%s: a command's comment starts with its name, not with %q", f.path, strings.Fields(doc)[0])
		}
		return
	}
	if !strings.HasPrefix(doc, "Package "+name+" ") {
		t.Errorf("%s: the comment does not start with \"Package %s \"", f.path, name)
	}
	if concurrent && !strings.Contains(strings.ToLower(doc), "goroutine") {
		t.Errorf("%s: the comment does not say which goroutines the package runs", f.path)
	}
}

func startsGoroutines(f *file) bool {
	found := false
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.SelectorExpr: // of an errgroup.Group or a sync.WaitGroup
			found = found || n.Sel.Name == "Go"
		}
		return true
	})
	return found
}

func TestPackagesAreNamedForWhatTheyDo(t *testing.T) {
	drawers := []string{"util", "utils", "common", "types", "helper", "helpers", "misc", "base", "shared", "lib", "core"}
	for dir, files := range byDir(written(t, product)) {
		for _, name := range []string{path.Base(dir), files[0].ast.Name.Name} {
			if slices.Contains(drawers, name) {
				t.Errorf("%s: %q says nothing about what is in it", dir, name)
			}
		}
	}
}

func TestEveryPackageWithTestsLooksForLeaks(t *testing.T) {
	for dir, files := range byDir(written(t, tests)) {
		if !slices.ContainsFunc(files, callsTestkitMain) {
			t.Errorf("%s: its tests have no TestMain that calls testkit.Main", dir)
		}
	}
}

func callsTestkitMain(f *file) bool {
	found := false
	for _, d := range f.ast.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "TestMain" {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				found = found || n.Sel.Name == "Main"
			case *ast.Ident:
				found = found || n.Name == "Main" && f.dir == "internal/testkit"
			}
			return true
		})
	}
	return found
}

func TestNoTestIsSkipped(t *testing.T) {
	for _, f := range written(t, tests) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				t.Errorf("%s: %s: a test that cannot run fails", f.pos(n), sel.Sel.Name)
			}
			return true
		})
	}
}

func TestServerTestsAreNamedAndTagged(t *testing.T) {
	for _, f := range written(t, tests) {
		inFile := strings.HasSuffix(f.path, "_real_test.go")
		tagged := slices.ContainsFunc(f.ast.Comments, func(c *ast.CommentGroup) bool {
			return slices.ContainsFunc(c.List, func(l *ast.Comment) bool {
				return strings.HasPrefix(l.Text, "//go:build real")
			})
		})
		if inFile != tagged {
			t.Errorf("%s: named _real_test.go: %v, starts with //go:build real: %v; want both or neither", f.path, inFile, tagged)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" &&
				strings.HasPrefix(fn.Name.Name, "TestReal") != inFile {
				t.Errorf("%s: %s: TestReal... names the tests of _real_test.go files and no others", f.pos(fn), fn.Name.Name)
			}
		}
	}
}
