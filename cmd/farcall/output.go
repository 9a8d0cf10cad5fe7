package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
)

// print writes an answer in the format asked for. In JSON and YAML it is the message as
// protojson writes it, nothing added or left out; table writes it for people.
func (c *cli) print(m proto.Message, table func(io.Writer) error) error {
	if c.output == formatTable {
		return table(c.stdout)
	}
	b, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	return c.printJSON(b)
}

// printJSON writes a JSON value as indented JSON, or as YAML. Indenting also takes away the
// spaces that protojson adds at random, so that the same answer always gives the same bytes.
func (c *cli) printJSON(b []byte) error {
	if c.output == formatYAML {
		return writeYAML(c.stdout, b)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := c.stdout.Write(out.Bytes())
	return err
}

// writeYAML writes a JSON value as YAML. JSON is YAML in another style, so the tree keeps its
// order and its types; but for a few characters that JSON takes as they are and YAML only escaped.
func writeYAML(w io.Writer, b []byte) error {
	var escaped bytes.Buffer
	for _, r := range string(b) {
		if r >= 0x7f && r < 0xa0 || r >= 0xfff0 && r <= 0xffff && r != 0xfffd || r == 0xfeff {
			fmt.Fprintf(&escaped, `\u%04x`, r)
		} else {
			escaped.WriteRune(r)
		}
	}
	var n yaml.Node
	if err := yaml.Unmarshal(escaped.Bytes(), &n); err != nil {
		return err
	}
	plain(&n)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return e.Close()
}

// plain drops the JSON style of a tree. Empty lists and mappings have no other style.
func plain(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode || len(n.Content) > 0 {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// writeTable writes aligned columns. Cells are cleaned, and empty ones are a dash, so that a
// line always has as many words as columns.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i, row := range append([][]string{header}, rows...) {
		for j, cell := range row {
			if cell == "" && i > 0 {
				cell = "-"
			}
			if j > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, clean(cell))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// writeLines writes lines below a table, with one between.
func writeLines(w io.Writer, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintln(w)
	}
	for _, line := range lines {
		fmt.Fprintln(w, clean(line))
	}
}

// percent writes a share with one decimal at most.
func percent(share float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(share, 'f', 1, 64), ".0") + "%"
}

// notes tells on stderr which clusters' parts of a list may be out of date.
func (c *cli) notes(clusters []*adminv1.ClusterStatus) {
	for _, s := range clusters {
		switch {
		case c.output != formatTable || s.GetState() == catalogv1.ClusterState_SYNCED:
		case s.GetState() == catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN:
			fmt.Fprintf(c.stderr, "note: %s was never synced: what it has is unknown\n", clean(s.GetCluster()))
		case s.GetAge() == nil:
			fmt.Fprintf(c.stderr, "note: %s is %s, not confirmed since the synchronizer started\n", clean(s.GetCluster()), stateWord(s.GetState()))
		default:
			fmt.Fprintf(c.stderr, "note: %s is %s, last confirmed %s ago\n", clean(s.GetCluster()), stateWord(s.GetState()), age(s.GetAge()))
		}
	}
}

// none tells on stderr that a table is empty on purpose.
func (c *cli) none(count int, what string) {
	if count == 0 && c.output == formatTable {
		fmt.Fprintf(c.stderr, "no %s\n", what)
	}
}

// age writes a span for people, in its two largest units at most; "-" where nobody can tell.
func age(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	switch s := d.AsDuration(); {
	case s < time.Second:
		return "<1s"
	case s < time.Minute:
		return fmt.Sprintf("%ds", s/time.Second)
	case s < time.Hour:
		return fmt.Sprintf("%dm%02ds", s/time.Minute, s%time.Minute/time.Second)
	case s < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", s/time.Hour, s%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", s/(24*time.Hour), s%(24*time.Hour)/time.Hour)
	}
}

// stateWord writes a cluster's state as every other place does; the enum's own zero has a
// longer name because protobuf allows no word twice.
func stateWord(s catalogv1.ClusterState) string {
	if s == catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN {
		return "UNKNOWN"
	}
	return s.String()
}

func locality(l *catalogv1.Locality) string {
	if l.GetZone() == "" {
		return l.GetRegion()
	}
	return l.GetRegion() + "/" + l.GetZone()
}

// hostPort joins an address and a port that may each be missing.
func hostPort(address string, port uint32) string {
	if address == "" || port == 0 {
		return address
	}
	return net.JoinHostPort(address, strconv.FormatUint(uint64(port), 10))
}
