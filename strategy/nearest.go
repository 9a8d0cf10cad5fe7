package strategy

import (
	"strconv"
	"strings"
)

// maxWord bounds what is compared and quoted of a word that a stranger wrote: a cluster's name,
// the longest word that can be right, has at most 63 bytes.
const maxWord = 63

// quote quotes a stranger's word, cut where it is longer than any that could be right.
func quote(s string) string {
	if len(s) > maxWord {
		return strconv.Quote(s[:maxWord]) + "..."
	}
	return strconv.Quote(s)
}

// nearest gives the word that s most probably stands for: the one with the fewest edits, case
// and underscores apart; of equals the first. words must not be empty.
func nearest(s string, words []string) string {
	s = strings.ReplaceAll(strings.ToLower(s[:min(len(s), maxWord)]), "_", "-")
	best, fewest := words[0], edits(s, words[0])
	for _, w := range words[1:] {
		if n := edits(s, w); n < fewest {
			best, fewest = w, n
		}
	}
	return best
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
