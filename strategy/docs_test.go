package strategy

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

var update = flag.Bool("update", false, "write the tables of docs/strategies.md anew")

// TestDocs compares the tables of docs/strategies.md with what the tests run and the code says.
// With -update it writes them.
func TestDocs(t *testing.T) {
	path := filepath.Join(testkit.Root(t), "docs", "strategies.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	groups := reasonGroups(t)
	for name, table := range map[string]string{
		"decision table":   decisionTable(contract),
		"further states":   decisionTable(beyond),
		"worked shares":    sharesTable(),
		"left out":         groups[0],
		"unavailable":      groups[1],
		"nonsense":         groups[2],
		"default settings": defaultsTable(),
	} {
		got = replaceSection(t, got, name, table)
	}
	if got == string(text) {
		return
	}
	if !*update {
		t.Fatal("docs/strategies.md is not what the tests run: go test ./strategy -run TestDocs -update")
	}
	if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replaceSection puts a table between the two marks that bear its name.
func replaceSection(t *testing.T, text, name, table string) string {
	t.Helper()
	begin, end := "<!-- generated: "+name+" -->\n", "<!-- end: "+name+" -->\n"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("docs/strategies.md has no section %q", name)
	}
	return before + begin + "\n" + table + "\n" + end + after
}

func tableRow(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

func tableHead(cells ...string) string {
	return tableRow(cells...) + strings.Repeat("|---", len(cells)) + "|\n"
}

// decisionTable writes the rows of a table; the cases of one state are one row.
func decisionTable(rows []situation) string {
	head := []string{"State"}
	for _, k := range columns {
		head = append(head, "`"+string(k)+"`")
	}
	s := tableHead(head...)
	for i := 0; i < len(rows); i++ {
		cells := []string{rows[i].state}
		other := &rows[i]
		if i+1 < len(rows) && rows[i+1].state == rows[i].state {
			other = &rows[i+1]
		}
		for k := range columns {
			c := rows[i].cells[k]
			if other.cells[k] != c {
				c += " if " + rows[i].when + ", else " + other.cells[k]
			}
			cells = append(cells, c)
		}
		s += tableRow(cells...)
		if other != &rows[i] {
			i++
		}
	}
	return s
}

func sharesTable() string {
	s := tableHead("local", "west", "south", "`threshold`", "`minAvailable`", "`mode`", "calls go to")
	of := func(n [2]int) string { return fmt.Sprintf("%d of %d", n[0], n[1]) }
	for _, c := range worked {
		mode := c.mode
		if mode == "" {
			mode = Spill
		}
		s += tableRow(of(c.local), of(c.west), of(c.south), fmt.Sprint(c.threshold), fmt.Sprint(max(1, c.min)), "`"+string(mode)+"`", c.want)
	}
	return s
}

func defaultsTable() string {
	p := Defaults()
	s := tableHead("Setting", "Default")
	for _, row := range [][2]string{
		{"strategy", string(p.Strategy)},
		{"failover", fmt.Sprintf("{threshold: %d, minAvailable: %d, mode: %s}", p.Failover.Threshold, p.Failover.MinAvailable, p.Failover.Mode)},
		{"balancer", string(p.Balancer)},
		{"locality", string(p.Locality)},
		{"failback", fmt.Sprintf("{hold: %v, ramp: %v}", p.Failback.Hold, p.Failback.Ramp)},
		{"recoverAll", fmt.Sprint(p.RecoverAll)},
		{"retry.attempts", fmt.Sprint(p.Retry.Attempts)},
		{"broadcast.targetTimeout", strings.TrimSuffix(p.Broadcast.TargetTimeout.String(), "m0s")},
		{"broadcast.maxParallel", fmt.Sprint(p.Broadcast.MaxParallel)},
		{"staleTTL", strings.TrimSuffix(p.StaleTTL.String(), "0m0s")},
		{"warmUp", p.WarmUp.String()},
	} {
		s += tableRow("`"+row[0]+"`", "`"+row[1]+"`")
	}
	return s
}

// constants gives, for each group of constants of a type in a file, their values and what is said
// of each behind it.
func constants(t *testing.T, file, typ string) [][][2]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var out [][][2]string
	for _, decl := range f.Decls {
		var group [][2]string
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			if id, ok := v.Type.(*ast.Ident); !ok || id.Name != typ {
				continue
			}
			word, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			group = append(group, [2]string{word, strings.TrimSpace(v.Comment.Text())})
		}
		if group != nil {
			out = append(out, group)
		}
	}
	return out
}

// reasonGroups writes a table for each group of reasons: in the code they are told to people as well.
func reasonGroups(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, group := range constants(t, "strategy.go", "Reason") {
		s := tableHead("Reason", "Meaning")
		for _, c := range group {
			if c[1] == "" {
				t.Errorf("nothing is said of reason %s", c[0])
			}
			s += tableRow("`"+c[0]+"`", c[1])
		}
		out = append(out, s)
	}
	if len(out) != 3 {
		t.Fatalf("%d groups of reasons, want 3", len(out))
	}
	return out
}

// Every word that a policy can say stands in the document.
func TestDocsKnowEveryWord(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "strategies.md"))
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, c := range []struct{ file, typ string }{
		{"strategy.go", "Kind"}, {"policy.go", "FailoverMode"}, {"policy.go", "LocalityMode"}, {"policy.go", "Balancer"},
	} {
		n := len(words)
		for _, group := range constants(t, c.file, c.typ) {
			for _, v := range group {
				words = append(words, v[0])
			}
		}
		if len(words) == n {
			t.Errorf("%s has no constants of type %s", c.file, c.typ)
		}
	}
	for _, a := range aliases {
		words = append(words, a.word)
	}
	for _, w := range words {
		if !strings.Contains(string(text), "`"+w+"`") {
			t.Errorf("docs/strategies.md does not know %q", w)
		}
	}
}
