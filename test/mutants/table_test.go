package mutants

// mutant is our own code, broken in one way.
type mutant struct {
	name string
	// breaks is the promise that it breaks.
	breaks string
	// file is changed by writing now in the place of was, which stands in it exactly once.
	file     string
	was, now string
	catcher
}

// catcher is the tests that must fail: those of a package whose name a pattern matches, with what is
// passed to them beside.
type catcher struct {
	folder, run string
	args        []string
}

func by(folder, run string, args ...string) catcher { return catcher{folder, run, args} }

// simulated is a mutant's catcher where a simulation is: so many schedules, from the first seed.
func simulated(folder, schedules string) catcher {
	return by(folder, "^TestSimulation$", "-seed=1", "-schedules="+schedules)
}

var table = concat(guards, readers, owners, stores, feeds, calls)

func concat(lists ...[]mutant) (all []mutant) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// guards are mutants of what decides which removals are believed.
var guards = []mutant{
	{
		name: "floor-off", breaks: "no more than five removals go unasked in any 10 s",
		file: "internal/guard/apply.go",
		was:  "free := min(r.free(now), len(absent))", now: "free := max(min(r.free(now), 0), len(absent))",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "emptied-registry-believed", breaks: "a registry that is emptied in one read removes nothing at once",
		file: "internal/guard/apply.go",
		was:  "case before > r.cfg.Floor && r.stated == 0:", now: "case before < 0:",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "reset-ignored", breaks: "a registry that looks like another one removes nothing at once",
		file: "internal/guard/apply.go",
		was:  "	case u.Reset != \"\":\n		reason", now: "	case before < 0:\n		reason",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "explicit-as-absence", breaks: "an explicit removal goes at once",
		file: "internal/guard/apply.go",
		was:  "	if u.Explicit {\n", now: "	if u.Explicit && before < 0 {\n",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "absence-as-explicit", breaks: "what is only absent is not removed on purpose",
		file: "internal/guard/apply.go",
		was:  "	if u.Explicit {\n", now: "	if before >= 0 {\n",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "doubt-off", breaks: "an emptied or reset registry confirms nothing by staying as it is",
		file: "internal/guard/confirm.go",
		was:  "r.row.broken || r.doubtful():", now: "r.row.broken:",
		catcher: simulated("resolvers/intake", "1000"),
	},
	{
		name: "hold-forgotten-at-restart", breaks: "what was held stays held when its process begins anew",
		file: "internal/guard/adopt.go",
		was:  "			held[in.ID] = h\n", now: "			delete(held, h.ID)\n",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "hold-too-long", breaks: "a hold ends by time, after guard.hold",
		file: "internal/guard/apply.go",
		was:  "Until: now.Add(r.cfg.Hold), Reason", now: "Until: now.Add(2 * r.cfg.Hold), Reason",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "verdict-ignored", breaks: "what who decides lists stays held, and what it let go goes",
		file: "resolvers/intake/pass.go",
		was:  "if i.verdict != nil && r.guard.Counts().Held > 0 {", now: "if i.verdict != nil && r.guard.Counts().Held < 0 {",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "explicit-coalesced-away", breaks: "a removal on purpose stays one when a plain read follows before anybody looked",
		file: "resolvers/inbox/inbox.go",
		was:  "	if u.Explicit {\n		to = &b.explicit\n	}\n", now: "",
		catcher: simulated("resolvers/intake", "300"),
	},
	{
		name: "hold-lost-at-take-over", breaks: "who takes over holds what the owner before held",
		file: "synchronizer/baseline.go",
		was:  "range holds.Read(now, cluster, groups) {", now: "range holds.Read(now, cluster, groups[:0]) {",
		catcher: by("synchronizer", "^TestBaseline$"),
	},
	{
		name: "failed-read-published-empty", breaks: "a failed read publishes nothing",
		file: "resolvers/poll/poll.go",
		was:  "		out.Failed(err)\n", now: "		out.Publish(catalog.Update{Full: true})\n",
		catcher: by("resolvers/poll", "."),
	},
	{
		name: "partial-read-published", breaks: "a partial read publishes nothing (Consul)",
		file:    "resolvers/consul/read.go",
		was:     "	read, failed, err := r.read(ctx, w.services, causeStart)\n	if err != nil {\n",
		now:     "	read, failed, err := r.read(ctx, w.services, causeStart)\n	if err != nil && len(read) == 0 {\n",
		catcher: by("resolvers/consul", "^TestBadAnswers$"),
	},
	{
		name: "target-lost-published", breaks: "a partial read publishes nothing (DNS)",
		file: "resolvers/dns/read.go",
		was:  "case missing != nil && (before == nil || !anyAddress(out)):", now: "case missing != nil && before == nil && out == nil:",
		catcher: by("resolvers/dns", "^(TestAServiceIsNotEmptiedByAFailure|TestAFirstReadWithoutOneTargetPublishesNothing)$"),
	},
}

// readers are mutants of what reads the store's keys, in synchronizers and agents.
var readers = []mutant{
	{
		name: "synced-marker-skipped", breaks: "a list of a store that is being filled removes nothing before its owner has published all",
		file: "internal/mirror/mirror.go",
		was:  "		case c.syncedSeen == m.generation:\n			m.sweep(c, &ch)\n", now: "		case c.syncedSeen <= m.generation:\n			m.sweep(c, &ch)\n",
		catcher: by("internal/mirror", "."),
	},
	{
		name: "sweep-on-store-change", breaks: "another store sweeps nothing by what it lacks",
		file: "internal/mirror/mirror.go",
		was:  "case !m.otherStore && c.syncedSeen > 0 ", now: "case c.syncedSeen > 0 ",
		catcher: by("internal/mirror", "."),
	},
	{
		name: "older-list-sweeps-younger", breaks: "a list of a replica that is behind sweeps nothing that came after it",
		file: "internal/mirror/mirror.go",
		was:  "if sl.at.generation < m.listed && !m.younger(sl.at) {", now: "if sl.at.generation < m.listed {",
		catcher: by("internal/mirror", "."),
	},
	{
		name: "older-epoch-accepted", breaks: "a reader never goes back to an older epoch",
		file: "internal/mirror/apply.go",
		was:  "case old == nil || next.newer(old):", now: "case old == nil || next.newer(old) || old.newer(next):",
		catcher: by("internal/mirror", "."),
	},
	{
		name: "delete-dropped-on-relist", breaks: "what was deleted while nobody watched goes at the next list",
		file: "synchronizer/hub.go",
		was:  "		if next[k] == nil {\n", now: "		if next[k] == nil && revision < 0 {\n",
		catcher: by("synchronizer", "^TestHub"),
	},
	{
		name: "resumed-one-too-late", breaks: "a watch that goes on misses nothing",
		file: "internal/store/watch.go",
		was:  "clientv3.WithRev(w.seen.Load()+1)", now: "clientv3.WithRev(w.seen.Load()+2)",
		catcher: by("internal/store", "^TestTheFirstChangeAfterAListIsNotMissed$"),
	},
	{
		name: "unconfirmed-age", breaks: "a cluster is fresh only while its registries are confirmed (as it is read)",
		file: "internal/mirror/apply.go",
		was:  "behind := min(v.GetTick()-confirmed, 1<<30)", now: "behind := min(v.GetTick()-v.GetTick(), 1<<30)",
		catcher: by("internal/mirror", "."),
	},
	{
		name: "unconfirmed-beat", breaks: "a cluster is fresh only while its registries are confirmed (as it is written)",
		file: "internal/store/member.go",
		was:  "out[c] = min(at, tick)", now: "out[c] = max(at, tick)",
		catcher: by("internal/store", "^TestHeartbeatCarriesWhatWasConfirmed$"),
	},
	{
		name: "policies-backwards", breaks: "policies never go back",
		file: "internal/mirror/policies.go",
		was:  "case p.as != nil && !keys.Covers(m.storeID, p.there.marker, p.as):", now: "case p.as != nil && p.there.marker == nil:",
		catcher: by("internal/mirror", "."),
	},
	{
		name: "digest-ignores-deletions", breaks: "what was not deleted where it should have been is found",
		file: "synchronizer/digest.go",
		was:  "		s.add(old, ^uint64(0)) //", now: "		s.add(old, ^uint64(0)*map[bool]uint64{false: 1}[e.GetDeleted()]) //",
		catcher: by("synchronizer", "^TestSums"),
	},
}

// owners are mutants of what writes the store.
var owners = []mutant{
	{
		name: "fence-not-compared", breaks: "who lost a cluster writes nothing under it any more",
		file:    "internal/store/term.go",
		was:     "		append(t.ours(), clientv3.Compare(clientv3.ModRevision(t.ownKey), \"=\", t.renewed))...,\n",
		now:     "		clientv3.Compare(clientv3.ModRevision(t.ownKey), \">\", -1),\n",
		catcher: by("internal/store", "^(TestEveryWriteComparesTheOwnerKey|TestAWriteFromBeforeTheFenceWasRenewedComesToNothing)$"),
	},
	{
		name: "fence-by-revision-alone", breaks: "an owner of a store that was wiped writes nothing into the next one",
		file: "internal/store/term.go",
		was:  "		clientv3.Compare(clientv3.LeaseValue(t.ownKey), \"=\", t.session.lease),\n", now: "",
		catcher: by("internal/store", "^TestOwnerOfAWipedStoreIsNotTakenForOurselves$"),
	},
	{
		name: "no-epoch-at-take-over", breaks: "a new owner's values are newer than all before",
		file: "internal/store/term.go",
		was:  "epoch := 1 + max(t.seen, known)", now: "epoch := max(1, t.seen, known)",
		catcher: by("internal/store", "^TestTakeOver"),
	},
	{
		name: "lease-bound-data", breaks: "a lease that ends deletes no instance",
		file:    "internal/store/publish.go",
		was:     "		ops = append(ops, clientv3.OpPut(k, string(value)))\n		size",
		now:     "		ops = append(ops, clientv3.OpPut(k, string(value), clientv3.WithLease(t.session.lease)))\n		size",
		catcher: simulated("synchronizer", "100"),
	},
}

// feeds are mutants of the way from a synchronizer to an agent, and of what agents keep on disk.
var feeds = []mutant{
	{
		name: "duplicate-claimant", breaks: "two agents do not share one place",
		file: "synchronizer/roster.go",
		was:  "} else if s.incarnation != a.GetIncarnation() {", now: "} else if s.incarnation == \"\" {",
		catcher: by("synchronizer", "^TestOneAgentPerNode$"),
	},
	{
		name: "change-skipped-on-resume", breaks: "an agent that comes back is sent all that it missed",
		file: "synchronizer/history.go",
		was:  "return c.upTo < revision ||", now: "return c.upTo < revision+2 ||",
		catcher: by("synchronizer", "^TestHub"),
	},
	{
		name: "lack-not-noticed", breaks: "an agent that lacks something asks for everything",
		file: "agent/uplink/drift.go",
		was:  "if ok && len(mirror.Differ(", now: "if ok || len(mirror.Differ(",
		catcher: simulated("agent/uplink", "300"),
	},
	{
		name: "demand-not-reported", breaks: "an owner learns under which epoch its word counts at an agent",
		file: "agent/uplink/uplink.go",
		was:  "r.Epochs[c.Name] = c.Demand", now: "r.Epochs[c.Name] = min(c.Demand, 0)",
		catcher: simulated("agent/uplink", "300"),
	},
	{
		name: "saved-view-unchecked", breaks: "a damaged view is not used",
		file: "agent/uplink/disk.go",
		was:  "!bytes.Equal(have[:], sum) {", now: "bytes.Equal(have[:], nil) && bytes.Equal(sum, nil) {",
		catcher: by("agent/uplink", "^TestNoDamageGoesUnseen$"),
	},
	{
		name: "saved-registries-unchecked", breaks: "damaged lists of the own registries are not used",
		file: "internal/datadir/seal.go",
		was:  "!bytes.Equal(have[:], sum) {", now: "bytes.Equal(have[:], nil) && bytes.Equal(sum, nil) {",
		catcher: by("internal/datadir", "."),
	},
	{
		name: "saved-view-served-as-fresh", breaks: "a view that lay on the disk is as old as it is",
		file: "agent/uplink/disk.go",
		was:  "m.Apply(time.Now().Add(-away), ", now: "m.Apply(time.Now(), ",
		catcher: by("agent/uplink", "^TestSavedViewIsAsOldAsItIs$"),
	},
}

// calls are mutants of what happens to a call.
var calls = []mutant{
	{
		name: "retry-after-first-byte", breaks: "a call that may have been executed is not made again unless it may be",
		file: "agent/relay/relay.go",
		was:  "case err.OutcomeUnknown() && by.idempotent:", now: "case err.OutcomeUnknown():",
		catcher: by("agent/relay", "."),
	},
	{
		name: "retries-without-budget", breaks: "retries are a tenth of the calls at most",
		file: "agent/relay/relay.go",
		was:  "!outside && !r.budget.take(time.Now())", now: "!outside && r.budget == nil",
		catcher: by("agent/relay", "."),
	},
}
