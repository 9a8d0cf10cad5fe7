package main

import (
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestSummary(t *testing.T) {
	const pass = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`
	tests := []struct {
		name, in string
		good     bool
		want     []string
		wantNot  []string
	}{
		{
			name: "a passing package is one line", in: pass, good: true,
			want: []string{"ok  \tp\t0.1s\n"}, wantNot: []string{"chatter", "PASS\n"},
		},
		{
			name: "a skipped test is not good",
			in: `{"Action":"skip","Package":"p","Test":"TestB"}
` + pass,
			want: []string{"SKIPPED p TestB", "1 passed, 0 failed, 1 skipped"},
		},
		{
			name: "a failed test says all it said",
			in: `{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: why\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- FAIL: TestB (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"b_test.go:7: why", "--- FAIL: TestB", "FAIL\tp", "NOT OK", "1 failed"}, wantNot: []string{"=== RUN"},
		},
		{
			name: "a failure outside any test is shown",
			in: `{"Action":"output","Package":"p","Output":"panic: boom\n"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"panic: boom", "1 packages failed"},
		},
		{
			name: "a test that never ended says what it said",
			in: `{"Action":"output","Package":"p","Test":"TestB","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"panic: test timed out"},
		},
		{
			name: "what does not compile is shown",
			in: `{"ImportPath":"p","Action":"build-output","Output":"p/a.go:1:1: expected 'package'\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}
`,
			want: []string{"expected 'package'", "1 packages failed"},
		},
		{name: "no tests at all are not good", in: "", want: []string{"NOT OK: 0 passed"}},
		{name: "other lines go through", in: "go: downloading x\n" + pass, good: true, want: []string{"go: downloading x\n"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			s, err := summarise(strings.NewReader(tc.in), &out)
			if err != nil {
				t.Fatal(err)
			}
			if s.good() != tc.good {
				t.Errorf("good: %v, want %v", s.good(), tc.good)
			}
			all := out.String() + s.String()
			for _, want := range tc.want {
				if !strings.Contains(all, want) {
					t.Errorf("%q is missing in:\n%s", want, all)
				}
			}
			for _, not := range tc.wantNot {
				if strings.Contains(all, not) {
					t.Errorf("%q should not be in:\n%s", not, all)
				}
			}
		})
	}
}

// Only expectations of one or two tests are worth a second look.
func TestAlone(t *testing.T) {
	fail := func(tests ...string) string {
		var b strings.Builder
		for _, name := range tests {
			b.WriteString(`{"Action":"fail","Package":"p","Test":"` + name + "\"}\n")
		}
		return b.String() + `{"Action":"fail","Package":"p"}` + "\n"
	}
	say := func(line string) string {
		return `{"Action":"output","Package":"p","Test":"TestB","Output":"` + line + "\\n\"}\n"
	}
	for _, tc := range []struct{ name, in, want string }{
		{"one", fail("TestB/part", "TestB"), "p TestB\n"},
		{"two", fail("TestB", "TestC"), "p TestB\np TestC\n"},
		{"three", fail("TestB", "TestC", "TestD"), ""},
		{"none", "", ""},
		{"a leak: the package failed, and no test", fail(), ""},
		{"a race", say("WARNING: DATA RACE") + fail("TestB"), ""},
		{"a panic", say("panic: boom") + fail("TestB"), ""},
		{"one of the runtime", say("fatal error: all goroutines are asleep") + fail("TestB"), ""},
		{"a skip beside it", `{"Action":"skip","Package":"p","Test":"TestA"}` + "\n" + fail("TestB"), ""},
		{"a package beside it that does not compile", `{"Action":"fail","Package":"q","FailedBuild":"q"}` + "\n" + fail("TestB"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := summarise(strings.NewReader(tc.in), new(strings.Builder))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.alone(), ""); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
