package config

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/testkit"
)

// leaves lists the keys below a type that hold a value or a list of registries, as the document
// writes them, with their defaults.
func leaves(t *testing.T, typ reflect.Type, path, below string, out map[string]string) {
	t.Helper()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Tag.Get("later") != "" {
			continue
		}
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" && options != "inline" {
			t.Errorf("%s.%s has no key", typ, f.Name)
		}
		at, ft, def := child(path, key), f.Type, f.Tag.Get("default")
		if options == "inline" && ft == reflect.TypeFor[PolicySettings]() {
			at = path
		} else if options == "inline" {
			// What stands in the block of every kind is documented once.
			at, def = "KIND", ""
		} else if name, value, ok := strings.Cut(below, "="); ok && name == key {
			def = value
		}
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		switch {
		case ft == reflect.TypeFor[[]Resolver](), ft == reflect.TypeFor[PolicySettings]() && options != "inline":
			out[at] = ""
		case ft.Kind() == reflect.Struct:
			leaves(t, ft, at, def, out)
		case (ft.Kind() == reflect.Slice || ft.Kind() == reflect.Map) && ft.Elem().Kind() == reflect.Struct:
			leaves(t, ft.Elem(), at+"[]", "", out)
		default:
			if ft.Kind() == reflect.Bool {
				def = "false"
			}
			out[at] = def
		}
	}
}

// documented lists the keys in the tables under a heading, with what stands in the column of
// defaults.
func documented(t *testing.T, text, heading string) map[string]string {
	t.Helper()
	_, section, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no heading %s", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\| [A-Za-z].*\\. \\|$").FindAllStringSubmatch(section, -1) {
		if _, twice := out[m[1]]; twice {
			t.Errorf("%s: %s stands twice", heading, m[1])
		}
		out[m[1]] = m[2]
	}
	return out
}

func TestDocumentNamesEveryKeyAndDefault(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	for heading, typ := range map[string]reflect.Type{
		"Synchronizer": reflect.TypeFor[Synchronizer](),
		"Agent":        reflect.TypeFor[Agent](),
		"Resolvers":    reflect.TypeFor[Resolver](),
		"Policies":     reflect.TypeFor[Policy](),
	} {
		keys, doc := map[string]string{}, documented(t, string(b), heading)
		leaves(t, typ, "", "", keys)
		if heading == "Policies" {
			maps.Copy(keys, settingsInForce(t))
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			cell, ok := doc[key]
			if !ok {
				t.Errorf("%s: %s has no line in docs/configuration.md", heading, key)
				continue
			}
			want := "`" + strings.ReplaceAll(keys[key], ",", "`, `") + "`"
			if keys[key] != "" && cell != want {
				t.Errorf("%s: the default of %s is %s, the document says %s", heading, key, want, cell)
			}
			if keys[key] == "" && strings.Contains(cell, "`") && !strings.HasPrefix(cell, "the ") {
				t.Errorf("%s: %s has no default, the document says %s", heading, key, cell)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(doc)) {
			if _, ok := keys[key]; !ok {
				t.Errorf("%s: docs/configuration.md has a line for %s, which no daemon takes", heading, key)
			}
		}
	}
}

// settingsInForce gives each setting of a policy as it is where nobody states it.
func settingsInForce(t *testing.T) map[string]string {
	t.Helper()
	keys := map[string]string{}
	for _, s := range (*policy.Set)(nil).Effective(catalog.Name{}, "east", "", policy.Settings{}).Settings() {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(s.Value), &n); err != nil {
			t.Fatal(err)
		}
		if s.Value == "" || n.Content[0].Kind != yaml.MappingNode || len(n.Content[0].Content) == 0 {
			keys[s.Key] = s.Value
			continue
		}
		for i, pairs := 0, n.Content[0].Content; i < len(pairs); i += 2 {
			keys[s.Key+"."+pairs[i].Value] = pairs[i+1].Value
			if pairs[i+1].Kind == yaml.SequenceNode && len(pairs[i+1].Content) == 0 {
				keys[s.Key+"."+pairs[i].Value] = "[]"
			}
		}
	}
	return keys
}

// The examples of the document are what they say they are: configurations.
func TestDocumentedExamplesAreValid(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml[a-z ]*\n(.*?)```").FindAllStringSubmatch(string(b), -1)
	if len(blocks) != 3 {
		t.Fatalf("found %d examples, want one for each daemon and a policy", len(blocks))
	}
	if _, err := ParseSynchronizer("docs/configuration.md", []byte(blocks[0][1])); err != nil {
		t.Error(err)
	}
	if _, err := ParseAgent("docs/configuration.md", []byte(blocks[1][1])); err != nil {
		t.Error(err)
	}
	if _, err := ParsePolicies("docs/configuration.md", []byte(blocks[2][1])); err != nil {
		t.Error(err)
	}
}
