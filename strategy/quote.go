package strategy

import "strconv"

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
