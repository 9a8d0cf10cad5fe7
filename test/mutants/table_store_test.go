package mutants

// stores are mutants of what becomes of a store that was wiped, restored or did not answer.
var stores = []mutant{
	{
		name: "unknown-taken-for-written", breaks: "a write without an answer is made sure of",
		file:    "internal/store/term.go",
		was:     "	if err != nil {\n		t.unsure = true\n		t.count(err)\n",
		now:     "	if err != nil && !errors.Is(err, ErrNotOwner) {\n		return nil\n	}\n	if err != nil {\n		t.unsure = true\n		t.count(err)\n",
		catcher: simulated("synchronizer", "300"),
	},
	{
		name: "delete-dropped-by-reader", breaks: "what a list does not name goes from a reader",
		file: "internal/mirror/mirror.go",
		was:  "				delete(s.slices, num)\n", now: "				continue\n",
		catcher: simulated("synchronizer", "300"),
	},
	{
		name: "marker-of-the-past", breaks: "the marker of a restored backup vouches for the past only",
		file: "internal/mirror/apply.go",
		was:  "	counts := v.GetEpoch() > c.vouchAbove\n", now: "	counts := v.GetEpoch() > 0\n",
		catcher: by("internal/mirror", "^TestRestoredBackupSweepsNothing$"),
	},
	{
		name: "no-higher-epoch-demanded", breaks: "in another store a higher epoch is demanded",
		file: "internal/mirror/read.go",
		was:  "return max(c.highest, c.vouchAbove+1, c.contested)", now: "return c.highest",
		catcher: by("internal/mirror", "^TestAnotherStoreDemandsAHigherEpoch$"),
	},
	{
		name: "disputes-forgotten", breaks: "what is vouched for and refused is demanded anew",
		file: "internal/mirror/read.go",
		was:  "return max(c.highest, c.vouchAbove+1, c.contested)", now: "return max(c.highest, c.vouchAbove+1)",
		catcher: by("internal/mirror", "^TestWhatIsVouchedForAndRefusedIsDemandedAnew$"),
	},
	{
		name: "demands-not-heeded", breaks: "an owner goes above the epoch that readers demand",
		file: "internal/store/session.go",
		was:  "if epoch := epochs[c]; epoch > 0 {", now: "if epoch := epochs[c]; epoch == 0 {",
		catcher: simulated("synchronizer", "300"),
	},
	{
		name: "deletions-of-another-store-believed", breaks: "what is deleted is deleted in the store that was listed",
		file: "internal/store/watch.go",
		was:  "		if err := w.still(ctx); err != nil {\n", now: "		if err := ctx.Err(); err != nil {\n",
		catcher: by("internal/store", "^TestDeletionsOfAnotherStoresPastAreNotBelieved$"),
	},
	{
		name: "past-not-compared", breaks: "a restored store is known by its past",
		file: "internal/store/identity.go",
		was:  "	if kv == nil {\n		return false, nil\n	}\n", now: "	if kv == nil || kv.ModRevision > 0 {\n		return false, nil\n	}\n",
		catcher: by("internal/store", "^TestRestoredStoreIsKnownByItsPast$"),
	},
}
