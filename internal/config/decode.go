package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/farcall/farcall/internal/nearest"
)

// maxValues bounds the values of one file, against a file that is no configuration.
const maxValues = 100_000

var (
	durationType = reflect.TypeFor[time.Duration]()
	syntaxError  = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
)

// decoder fills a typed struct from YAML nodes, by the struct's tags: yaml gives the key,
// default what stands when it is left out, later the keys that a coming version will take.
type decoder struct {
	*report
	values int
}

// decode reads data into the struct that v points to, with defaults, and returns what is wrong
// with its shape. Only errors that leave nothing to validate are returned as fatal.
func decode(name string, data []byte, v any) (r *report, fatal bool) {
	d := &decoder{report: newReport(name)}
	root, ok := d.parse(data)
	return d.report, !ok || !d.root(root, v)
}

// root reads the root node of a document into the struct that v points to. False means that there
// is nothing to validate.
func (d *decoder) root(root *yaml.Node, v any) bool {
	if root.Kind != yaml.MappingNode {
		d.add(root.Line, "", "want a mapping of keys to values, got %s", describe(root))
		return false
	}
	d.lines[""] = root.Line
	d.mapping(root, reflect.ValueOf(v).Elem(), "")
	if d.values > maxValues {
		d.errs = nil
		d.add(root.Line, "", "more than %d values: this is no configuration", maxValues)
		return false
	}
	return true
}

// parse gives the root node of the one document in data.
func (d *decoder) parse(data []byte) (*yaml.Node, bool) {
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, next yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && (len(doc.Content) == 0 || empty(doc.Content[0])) {
		d.add(1, "", "is empty: want a mapping of keys to values")
		return nil, false
	}
	if err == nil {
		if err = dec.Decode(&next); err == nil {
			d.add(next.Line, "", "a second document begins: want one per file")
			return nil, false
		}
	}
	if !errors.Is(err, io.EOF) {
		d.syntax(string(data), err)
		return nil, false
	}
	return doc.Content[0], true
}

// empty reports whether a node is a null that nobody wrote out.
func empty(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// syntax notes what the YAML parser said. It names tabs for what they are, at their own line:
// the parser speaks of a token that cannot start, a line away.
func (d *decoder) syntax(data string, err error) {
	m := syntaxError.FindStringSubmatch(err.Error())
	if m == nil {
		d.add(1, "", "%v", err)
		return
	}
	line, _ := strconv.Atoi(m[1]) // no line stated: 0, which is the first
	if strings.HasPrefix(m[2], "did not find expected") {
		line++ // the parser counts these from 0, the scanner's from 1
	}
	lines := strings.Split(strings.TrimRight(data, "\n"), "\n")
	line = min(line, len(lines)) // it may have read on to the end
	for i := max(line-2, 0); i < min(line+1, len(lines)); i++ {
		indent := lines[i][:len(lines[i])-len(strings.TrimLeft(lines[i], " \t"))]
		if strings.Contains(indent, "\t") {
			d.add(i+1, "", "a tab in the indentation: YAML takes spaces only")
			return
		}
	}
	d.add(max(line, 1), "", "not YAML: %s", m[2])
}

// field is one key of a struct.
type field struct {
	key string
	def string
	v   reflect.Value
}

// fields lists the keys of a struct, those of inlined structs included, and the keys that come
// later.
func fields(v reflect.Value) (list []field, later []string) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if l := f.Tag.Get("later"); l != "" {
			later = append(later, strings.Split(l, ",")...)
			continue
		}
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			inner, innerLater := fields(v.Field(i))
			list, later = append(list, inner...), append(later, innerLater...)
			continue
		}
		list = append(list, field{key: key, def: f.Tag.Get("default"), v: v.Field(i)})
	}
	return list, later
}

// setDefaults fills a struct, and the structs inside it, with the defaults of its tags. The
// default of a struct is "key=value" for one of its keys.
func setDefaults(v reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		def, fv := t.Field(i).Tag.Get("default"), v.Field(i)
		switch {
		case fv.Kind() == reflect.Struct:
			setDefaults(fv)
			if key, value, ok := strings.Cut(def, "="); ok {
				list, _ := fields(fv)
				at := slices.IndexFunc(list, func(f field) bool { return f.key == key })
				setDefault(list[at].v, value)
			}
		case def != "":
			setDefault(fv, def)
		}
	}
}

// setDefault sets one text, duration or list of texts. A tag that cannot be read sets nothing,
// which the tests of this package notice.
func setDefault(v reflect.Value, def string) {
	switch {
	case v.Type() == durationType:
		if span, err := time.ParseDuration(def); err == nil {
			v.SetInt(int64(span))
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.ValueOf(strings.Split(def, ",")))
	default:
		v.SetString(def)
	}
}

// value reads one node into v. What is wrong with it is noted under path.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.values++; d.values > maxValues {
		return // decode tells it once
	}
	if n.Kind == yaml.AliasNode {
		d.add(n.Line, path, "YAML aliases are not taken: write the value itself")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case reflect.Struct:
		if n.Kind == yaml.ScalarNode && !empty(n) {
			if f, ok := shorthand(v); ok {
				setDefaults(v)
				d.lines[child(path, f.key)] = n.Line
				d.scalar(n, f.v, path)
				return
			}
		}
		if n.Kind != yaml.MappingNode && !empty(n) {
			d.add(n.Line, path, "want a mapping of keys to values, got %s", describe(n))
			return
		}
		d.mapping(n, v, path)
	case reflect.Map:
		d.table(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// pairs calls each with every key of a mapping that is a word and set for the first time.
func (d *decoder) pairs(n *yaml.Node, path string, each func(key, value *yaml.Node, path string)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.add(key.Line, path, "a key must be a word, got %s", describe(key))
			continue
		case key.ShortTag() == "!!merge":
			d.add(key.Line, path, "YAML merge keys are not taken: write the keys themselves")
			continue
		}
		at := child(path, key.Value)
		if first, ok := seen[key.Value]; ok {
			d.add(key.Line, at, "set twice, first in line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		each(key, value, at)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	setDefaults(v)
	list, later := fields(v)
	d.pairs(n, path, func(key, value *yaml.Node, at string) {
		i := slices.IndexFunc(list, func(f field) bool { return f.key == key.Value })
		if i < 0 {
			d.unknown(key, v, list, later, path)
			return
		}
		d.lines[at] = key.Line
		d.value(value, list[i].v, at)
	})
}

// unknown notes a key that v does not take, with what was probably meant. The key that it
// probably was is then not reported as missing.
func (d *decoder) unknown(key *yaml.Node, v reflect.Value, list []field, later []string, path string) {
	at := child(path, key.Value)
	if slices.Contains(later, key.Value) {
		d.add(key.Line, at, "not supported by this version")
		d.bad[child(path, "*")] = true
		return
	}
	var inside []string
	keys := make([]string, len(list))
	for i, f := range list {
		keys[i] = f.key
		if takes(f.v.Type(), key.Value) {
			inside = append(inside, f.key)
		}
	}
	if word, ok := nearest.Word(key.Value, keys); ok {
		d.add(key.Line, at, "unknown key; did you mean %q?", word)
		d.bad[child(path, word)] = true
	} else if len(inside) > 0 {
		d.add(key.Line, at, "unknown key here; it goes inside %s", nearest.Either(inside))
	} else {
		slices.Sort(keys)
		d.add(key.Line, at, "unknown key; the keys here are %s", strings.Join(keys, ", "))
	}
	d.bad[child(path, "*")] = true
}

// takes reports whether a block of type t has the key.
func takes(t reflect.Type, key string) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	list, _ := fields(reflect.New(t).Elem())
	return slices.ContainsFunc(list, func(f field) bool { return f.key == key })
}

// shorthand gives the key of a struct that a plain value stands for, where there is one.
func shorthand(v reflect.Value) (field, bool) {
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.Tag.Get("shorthand") != "" {
			return field{key: f.Tag.Get("yaml"), v: v.Field(i)}, true
		}
	}
	return field{}, false
}

// table reads a mapping from words to values of one type.
func (d *decoder) table(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode && !empty(n) {
		d.add(n.Line, path, "want a mapping of keys to values, got %s", describe(n))
		return
	}
	if len(n.Content) == 0 {
		return
	}
	table := reflect.MakeMap(v.Type())
	d.pairs(n, path, func(key, value *yaml.Node, at string) {
		d.lines[at] = key.Line
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(value, e, at)
		table.SetMapIndex(reflect.ValueOf(key.Value), e)
	})
	v.Set(table)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode && !empty(n) {
		d.add(n.Line, path, "want a list, got %s", describe(n))
		return
	}
	v.SetZero()
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = item.Line
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(item, e, at)
		v.Set(reflect.Append(v, e))
	}
}

// scalar reads a text, a truth, a number or a duration. Values are not repeated in messages
// where they could be a secret.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	tag := n.ShortTag()
	own, ok := v.Addr().Interface().(interface{ scalar(*yaml.Node) error })
	switch {
	case empty(n):
		d.add(n.Line, path, "has no value: write one, or leave the key out")
	case ok:
		if err := own.scalar(n); err != nil {
			d.add(n.Line, path, "%v", err)
		}
	case v.Type() == durationType:
		span, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			d.add(n.Line, path, "want a duration such as 500ms or 60s, got %s", describe(n))
			return
		}
		v.SetInt(int64(span))
	case v.Kind() == reflect.Bool:
		if n.Kind != yaml.ScalarNode || tag != "!!bool" || n.Decode(v.Addr().Interface()) != nil {
			d.add(n.Line, path, "want true or false, got %s", describe(n))
		}
	case v.Kind() == reflect.Int:
		if n.Kind != yaml.ScalarNode || tag != "!!int" || n.Decode(v.Addr().Interface()) != nil {
			d.add(n.Line, path, "want a whole number, got %s", describe(n))
		}
	case v.Kind() == reflect.Uint32:
		if n.Kind != yaml.ScalarNode || tag != "!!int" || n.Decode(v.Addr().Interface()) != nil {
			d.add(n.Line, path, "want a whole number that is not negative, got %s", describe(n))
		}
	case n.Kind == yaml.ScalarNode && tag == "!!str":
		v.SetString(n.Value)
	case n.Kind == yaml.ScalarNode:
		d.add(n.Line, path, "want text, got %s: put it in quotes", describe(n))
	default:
		d.add(n.Line, path, "want text, got %s", describe(n))
	}
}

// describe says what a node is, not what it holds.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch tag := n.ShortTag(); tag {
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "a date"
	default:
		return "a value of another type"
	}
}

// setDefaultsOf is setDefaults for the struct that p points to.
func setDefaultsOf(p any) { setDefaults(reflect.ValueOf(p).Elem()) }
