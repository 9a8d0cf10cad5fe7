package strategy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// maxWord bounds what is compared and quoted of a word that a stranger wrote: a cluster's name,
// the longest word that can be right, has at most 63 bytes.
const maxWord = 63

// maxLine bounds a decision in one line: it stands in a header of every answer.
const maxLine = 200

// quote quotes a stranger's word, cut where it is longer than any that could be right.
func quote(s string) string {
	if len(s) > maxWord {
		return strconv.Quote(s[:maxWord]) + "..."
	}
	return strconv.Quote(s)
}

// legible makes a text fit to stand in a header: what is not printable ASCII becomes "?".
func legible(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return strings.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return '?'
				}
				return r
			}, s)
		}
	}
	return s
}

// word is a stranger's name of a cluster as it may stand in a line of text.
func word(s string) string {
	if len(s) > maxWord {
		s = s[:maxWord] + "..."
	}
	return legible(s)
}

// oneLine makes a sentence of what people wrote on several lines.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// percent writes a share of calls for people: at most one digit behind the point, and 0 and 100 only
// for what is exactly that.
func percent(p float64) string {
	switch {
	case p <= 0:
		return "0%"
	case p < 0.1:
		return "<0.1%"
	case p > 99.9 && whole-p > trifle:
		return ">99.9%"
	}
	return strings.TrimSuffix(strconv.FormatFloat(p, 'f', 1, 64), ".0") + "%"
}

// facts says how much of a tier is available, and what it would need.
func (d *decider) facts(t *plannedTier) string {
	if t.known == 0 {
		return d.nobodyKnown(t)
	}
	s := strconv.Itoa(t.available) + " of " + strconv.Itoa(t.known) + " available"
	if d.kind == Broadcast || d.kind == Any {
		return s
	}
	if n := d.minAvailable(); t.available < n && n > 1 {
		s += ", minAvailable " + strconv.Itoa(n)
	}
	if n := d.in.Policy.Failover.Threshold; n > 0 {
		s += ", threshold " + strconv.FormatUint(uint64(n), 10)
	}
	return s
}

// nobodyKnown says why a tier has no instance that counts: it lists none, or what removed those that it
// lists.
func (d *decider) nobodyKnown(t *plannedTier) string {
	listed, of, mixed := 0, Reason(""), false
	for _, c := range t.clusters {
		for i := range c.list {
			v := d.verdicts[c.first+i]
			r := ruleReasons[v.rule]
			if v.rule == passed {
				r = ByLocality // what else would count
			}
			mixed = mixed || listed > 0 && r != of
			listed, of = listed+1, r
		}
	}
	switch {
	case listed == 0:
		return "no instance"
	case mixed:
		return fmt.Sprintf("none of %d counts", listed)
	}
	return fmt.Sprintf("%d %s", listed, of)
}

// reason says where a tier's share comes from.
func (d *decider) reason(t *plannedTier) string {
	s := d.facts(t)
	switch {
	case t.failure != "":
		return s + ", but its cluster was measured unreachable"
	case t.recovers:
		return s + ", used all the same: recover-all"
	case t.share == 0 && t.capacity > t.granted && t.granted <= 0:
		return s + ", held back after its return"
	case t.capacity > t.granted+trifle:
		return s + ", coming back: " + percent(t.granted) + " of " + percent(t.capacity)
	case t.share == 0 && t.capacity > 0:
		return s + ", stands by"
	case t.share > 0 && t.capacity <= 0 && d.kind != Broadcast:
		return s + ", but no tier is sufficient"
	case t.share > t.capacity+trifle && d.kind != Broadcast:
		return s + ", fit for " + percent(t.capacity) + ", no room elsewhere"
	}
	return s
}

// line says the whole decision in one line.
func (d *decider) line() string {
	var b strings.Builder
	b.WriteString(string(d.kind))
	b.WriteString(": ")
	switch {
	case d.out.Unavailable != "":
		b.WriteString(string(d.out.Unavailable))
	case d.kind == Broadcast:
		d.lineOfTargets(&b)
	default:
		d.lineOfTiers(&b)
	}
	if d.out.RecoverAll && d.kind == Broadcast {
		b.WriteString(", recover-all")
	}
	if d.in.Pin != "" {
		b.WriteString(", pinned")
	}
	if d.out.Degraded {
		b.WriteString(", degraded")
	}
	if !d.in.PoliciesKnown {
		b.WriteString(", policies are not known yet")
	}
	s := legible(b.String())
	if len(s) > maxLine {
		s = s[:maxLine-3] + "..."
	}
	return s
}

func (d *decider) lineOfTargets(b *strings.Builder) {
	fmt.Fprintf(b, "each of %d targets: ", len(d.plan))
	for i := range d.plan {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(d.plan[i].name)
		if d.plan[i].failure != "" {
			b.WriteString(" (UNREACHABLE)")
		}
	}
}

// lineOfTiers names the tiers in use with their shares, each with its reason where it is not simply
// fit for all calls, and then the better ones that are not in use.
func (d *decider) lineOfTiers(b *strings.Builder) {
	last, used := 0, 0
	for i := range d.plan {
		if d.plan[i].share > 0 {
			last = i
			used++
		}
	}
	separator, passedOver := "", ""
	for i := range last + 1 {
		t := &d.plan[i]
		if t.share == 0 {
			passedOver += ", not tier " + t.name + " (" + d.out.Tiers[i].Why + ")"
			continue
		}
		b.WriteString(separator)
		separator = ", "
		if used > 1 {
			b.WriteString(percent(t.share) + " ")
		}
		b.WriteString("tier " + t.name)
		if t.recovers || d.kind != Any && t.granted < whole {
			b.WriteString(" (" + d.out.Tiers[i].Why + ")")
		}
	}
	b.WriteString(passedOver)
}
