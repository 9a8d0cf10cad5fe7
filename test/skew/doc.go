// Package skew tests that versions of Farcall get on with each other: that bytes which a released version
// wrote, into etcd, onto a disk or over the feed, are read and written again with their meaning; that what a
// newer version says beside is passed on where it is passed on at all, and does no harm where it is not; and
// that a synchronizer and agents work with an older or newer other end. What is promised, and what not, is
// in docs/upgrades.md.
package skew
