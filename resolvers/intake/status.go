package intake

import "github.com/farcall/farcall/internal/catalog"

// Status gives what is known of every registry now, in the order in which they are believed.
// Unlike a Change it tells revisions and last successes that moved by themselves, and registries
// that were added just now.
func (i *Intake) Status() []catalog.RegistryStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := make([]catalog.RegistryStatus, 0, len(i.registries))
	for _, r := range i.registries {
		all = append(all, r.status())
	}
	return all
}
