package strategy

// FNV-1a in 64 bits. hash/fnv has it too, but there each sum is an allocation, and some are made for
// every instance.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// hash goes on from h with a word and a byte that no word has.
func hash(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h * fnvPrime
}

// spread makes all bits of a sum depend on all others: the high ones, which order it, hardly
// depend on the last bytes of a short text. It is one round of MurmurHash3's finaliser.
func spread(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	return x ^ x>>33
}

// draw gives the place of a cluster among its equals at one agent.
func draw(agent Caller, cluster string) uint64 {
	return spread(hash(hash(hash(fnvOffset, agent.Cluster), agent.Node), cluster))
}

// members gives a number for the set of the known instances of a tier, whatever their order.
func (d *decider) members(t *plannedTier) uint64 {
	var sum uint64
	for _, c := range t.clusters {
		of := hash(fnvOffset, c.name)
		verdicts := d.verdicts[c.first:]
		for i := range c.list {
			if v := verdicts[i]; v.near != tooFar && (v.rule == passed || v.rule >= unhealthy) {
				sum += spread(hash(of, c.list[i].Instance.ID.Instance))
			}
		}
	}
	return sum
}
