package main

import (
	"strings"
	"testing"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
)

// TestARegistryStateOfALaterVersionIsNoGoodOne: a farcall that is older than its synchronizer says that it
// does not know the word, and not that all is well.
func TestARegistryStateOfALaterVersionIsNoGoodOne(t *testing.T) {
	found := registryTroubles(&adminv1.Cluster{Name: "east"}, &storev1.RegistryStatus{Name: "consul", State: 99, LastError: "it sleeps"}, time.Now())
	if len(found) != 1 || found[0].Level != levelWarn || !strings.Contains(found[0].Text, "99") || !strings.Contains(found[0].Text, "it sleeps") {
		t.Errorf("found %+v", found)
	}
}
