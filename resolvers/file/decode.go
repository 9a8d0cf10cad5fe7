package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/nearest"
)

// maxMistakes is how many mistakes are told of one file.
const maxMistakes = 10

var (
	fileKeys     = []string{"services"}
	serviceKeys  = []string{"name", "namespace", "instances"}
	instanceKeys = []string{"id", "address", "port", "relay", "node", "region", "zone", "weight", "health", "metadata"}
)

// decode reads the content of a registry file into one snapshot per service, in the order of
// the file. Entries of the same namespace and name are one service. Any mistake in the shape of
// the file is an error, which gives each with its line; name stands in for the file.
func decode(name string, data []byte) ([]catalog.Snapshot, error) {
	d := &decoder{name: name}
	root := d.parse(data)
	var snapshots []catalog.Snapshot
	if root != nil {
		snapshots = d.file(root)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return snapshots, nil
}

// decoder collects what is wrong with a file.
type decoder struct {
	name     string
	mistakes []string
	more     int // mistakes that are not told
}

// add notes a mistake. Line 0 is none.
func (d *decoder) add(line int, format string, args ...any) {
	if len(d.mistakes) == maxMistakes {
		d.more++
		return
	}
	at := d.name
	if line > 0 {
		at += ":" + strconv.Itoa(line)
	}
	d.mistakes = append(d.mistakes, at+": "+fmt.Sprintf(format, args...))
}

func (d *decoder) err() error {
	if len(d.mistakes) == 0 {
		return nil
	}
	s := strings.Join(d.mistakes, "; ")
	if d.more > 0 {
		s += fmt.Sprintf("; and %d more", d.more)
	}
	return errors.New(s)
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parse gives the root of the only document, or nil.
func (d *decoder) parse(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		d.add(0, "the file is empty: want a services key, services: [] for none")
		return nil
	}
	if err == nil {
		err = dec.Decode(&next)
	}
	switch {
	case errors.Is(err, io.EOF):
		return doc.Content[0]
	case err == nil:
		d.add(next.Line, "a second document begins: want one per file")
	default:
		line, what := syntaxError(err)
		d.add(line, "not YAML: %s", what)
	}
	return nil
}

// syntaxError gives the line and the words of what the YAML parser said; line 0 is none. The
// parser proper counts lines from 0 where its scanner counts from 1, and neither states the
// first one.
func syntaxError(err error) (line int, what string) {
	m := yamlError.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	if m == nil {
		return 0, err.Error()
	}
	line, _ = strconv.Atoi(m[1]) // no line stated: 0
	starts := func(words string) bool { return strings.HasPrefix(m[2], words) }
	switch {
	case starts("did not find expected"):
		line++
	case line == 0 && (starts("found ") || starts("could not find ") || starts("mapping values ")):
		line = 1
	}
	return line, m[2]
}

func (d *decoder) file(root *yaml.Node) []catalog.Snapshot {
	fields, ok := d.fields(root, "the file", fileKeys)
	if !ok {
		return nil
	}
	services, ok := fields["services"]
	if !ok {
		d.add(root.Line, "no services key: write services: [] for none")
		return nil
	}
	var order []catalog.Name
	byName := map[catalog.Name]*catalog.Snapshot{}
	for _, n := range d.list(services, "services") {
		name, instances, ok := d.service(n)
		if !ok {
			continue
		}
		s := byName[name]
		if s == nil {
			s = &catalog.Snapshot{Source: name.String(), Services: []catalog.Name{name}}
			byName[name] = s
			order = append(order, name)
		}
		s.Instances = append(s.Instances, instances...)
	}
	snapshots := make([]catalog.Snapshot, 0, len(order))
	for _, name := range order {
		snapshots = append(snapshots, *byName[name])
	}
	return snapshots
}

func (d *decoder) service(n *yaml.Node) (name catalog.Name, instances []*catalog.Instance, ok bool) {
	fields, ok := d.fields(n, "a service", serviceKeys)
	if !ok {
		return name, nil, false
	}
	d.text(fields, "namespace", &name.Namespace)
	if fields["name"] == nil {
		d.add(n.Line, "the service has no name")
	} else if d.text(fields, "name", &name.Service) {
		if err := (catalog.Name{Namespace: catalog.DefaultNamespace, Service: name.Service}).Check(); err != nil {
			d.add(fields["name"].Line, "name: %v", err)
		}
	}
	list, ok := fields["instances"]
	if !ok {
		d.add(n.Line, "service %.40q has no instances key: write instances: [] for none", name.Service)
		return name, nil, false
	}
	for _, in := range d.list(list, "instances") {
		if i := d.instance(in, name); i != nil {
			instances = append(instances, i)
		}
	}
	return name, instances, true
}

func (d *decoder) instance(n *yaml.Node, name catalog.Name) *catalog.Instance {
	fields, ok := d.fields(n, "an instance", instanceKeys)
	if !ok {
		return nil
	}
	i := &catalog.Instance{ID: catalog.ID{Name: name}, Weight: 1}
	d.text(fields, "id", &i.Instance)
	d.text(fields, "address", &i.Address)
	d.text(fields, "relay", &i.Relay)
	d.text(fields, "node", &i.Node)
	d.text(fields, "region", &i.Locality.Region)
	d.text(fields, "zone", &i.Locality.Zone)
	i.Port = int(d.number(fields, "port", 0, math.MinInt32, math.MaxInt32))
	i.Weight = uint32(d.number(fields, "weight", 1, 0, math.MaxUint32))
	if at := fields["health"]; at != nil {
		var word string
		if d.text(fields, "health", &word) {
			h, err := catalog.ParseHealth(word)
			if err != nil {
				d.add(at.Line, "health: %v", err)
			}
			i.Health = h
		}
	}
	i.Metadata = d.metadata(fields["metadata"])
	return i
}

// metadata reads a mapping of texts; nil where there is none.
func (d *decoder) metadata(n *yaml.Node) map[string]string {
	if n == nil {
		return nil
	}
	fields, ok := d.fields(n, "metadata", nil)
	if !ok {
		return nil
	}
	out := make(map[string]string, len(fields))
	for key := range fields {
		var v string
		d.text(fields, key, &v)
		out[key] = v
	}
	return out
}

// fields reads a mapping. Where keys is not nil, others are mistakes. It reports whether n is a
// mapping at all; what else is wrong is noted, and the rest of it is read on.
func (d *decoder) fields(n *yaml.Node, what string, keys []string) (map[string]*yaml.Node, bool) {
	if n.Kind != yaml.MappingNode {
		d.add(n.Line, "%s: want a mapping of keys to values, got %s", what, describe(n))
		return nil, false
	}
	fields := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.add(key.Line, "%s: a key must be a word, got %s", what, describe(key))
		case keys != nil && !slices.Contains(keys, key.Value):
			near, _ := nearest.Word(key.Value, keys)
			d.add(key.Line, "%s: unknown key %.40q, nearest valid key: %q", what, key.Value, near)
		case fields[key.Value] != nil:
			d.add(key.Line, "%s: key %.40q is set twice, first in line %d", what, key.Value, fields[key.Value].Line)
		default:
			fields[key.Value] = value
		}
	}
	return fields, true
}

func (d *decoder) list(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		d.add(n.Line, "%s: want a list, got %s; write [] for none", what, describe(n))
		return nil
	}
	return n.Content
}

// text reads a scalar as it is written: 7 and true are texts, too. A key without a value is a
// mistake, as a line that was not finished looks like that. It reports whether there is one.
func (d *decoder) text(fields map[string]*yaml.Node, key string, to *string) bool {
	n := fields[key]
	switch {
	case n == nil:
		return false
	case n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null":
		d.add(n.Line, "%.40s: want a text, got %s", key, describe(n))
		return false
	}
	*to = n.Value
	return true
}

func (d *decoder) number(fields map[string]*yaml.Node, key string, unset, least, most int64) int64 {
	n := fields[key]
	if n == nil {
		return unset
	}
	var v int64
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Decode(&v) != nil {
		d.add(n.Line, "%s: want a whole number, got %s", key, describe(n))
		return unset
	}
	if v < least || v > most {
		d.add(n.Line, "%s: %d is not in %d to %d", key, v, least, most)
		return unset
	}
	return v
}

// describe says what stands there instead.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias (aliases are not taken: write the value itself)"
	case n.ShortTag() == "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%.40q", n.Value)
}
