// Package nearest finds the word that a misspelt one was meant to be, for messages about bad
// input.
//
// It knows no words itself; it is pure and runs no goroutines.
package nearest

import (
	"fmt"
	"strings"
)

// maxLength bounds what is compared of a word that a stranger wrote, in bytes.
const maxLength = 64

// Word gives the one of words that takes the fewest letters to insert, drop, replace or swap
// with a neighbour to be made of s, case and the choice of dash or underscore apart; of equals
// the first. near says whether that is plausibly what was meant: at most a third of s, or two
// letters, are wrong. Without words it gives "", false.
func Word(s string, words []string) (word string, near bool) {
	s = fold(s[:min(len(s), maxLength)])
	least := -1
	for _, w := range words {
		if d := distance(s, fold(w)); least < 0 || d < least {
			word, least = w, d
		}
	}
	return word, least >= 0 && least <= max(2, len(s)/3) && least < len(word)
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

// distance is the optimal string alignment distance in bytes: Levenshtein's, with a swap of
// neighbours counted as one.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// Either joins words as `"a", "b" or "c"`.
func Either(words []string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", w)
	}
	return b.String()
}
