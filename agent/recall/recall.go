// Package recall keeps on disk what was believed of the agent's own registries, what was held of them
// among it. An agent that begins anew beside a registry that was emptied meanwhile goes on from there:
// its first reads are judged against it as if it had never been away.
//
// It is not the view of the federation, which package uplink keeps: a synchronizer may read other
// registries than this agent, under other names. It judges nothing itself.
//
// Goroutines: Run, which saves, is its caller's.
package recall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/holds"
	"github.com/farcall/farcall/resolvers/intake"
)

const (
	// what is the first line of the file.
	what = "farcall-registries-1"
	// saveEvery is the least time between two saves. An agent that ends in between judges what its
	// registries lost in that time once more.
	saveEvery = 5 * time.Second
	// heldEvery is how often the time that holds have left is saved while nothing else changes.
	heldEvery = 10 * time.Second
)

// Config says where.
type Config struct {
	Cluster string
	// File is where it is kept; empty for nowhere.
	File string
}

// Deps are what a Keeper uses.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Believed gives what is believed now, Held how much of it is held.
	Believed func() map[string]intake.Before
	Held     func() int
}

// Keeper keeps one file.
type Keeper struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	dirty chan struct{} // holds a token while there is something to save

	saveErrors, badFiles prometheus.Counter
}

// New returns a Keeper. It touches no file.
func New(cfg Config, deps Deps) *Keeper {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "farcall_recall_" + name, Help: help})
		deps.Metrics.MustRegister(c)
		return c
	}
	return &Keeper{
		cfg: cfg, deps: deps, log: deps.Log, dirty: make(chan struct{}, 1),
		saveErrors: counter("save_errors_total", "Times that what the own registries list could not be saved."),
		badFiles:   counter("bad_files_total", "Saved lists of the own registries that could not be used."),
	}
}

// Load gives what was saved last, for intake.Adopt, as of now; nil where there is nothing that can be
// used. A file that cannot be read is told of and left behind: the agent then begins like a new one.
func (k *Keeper) Load(now time.Time) map[string]intake.Before {
	if k.cfg.File == "" {
		return nil
	}
	b, err := os.ReadFile(k.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var before map[string]intake.Before
	if err == nil {
		before, err = decode(now, k.cfg.Cluster, b)
	}
	if err != nil {
		k.badFiles.Inc()
		k.log.Warn("what was saved of the own registries is not used", "file", k.cfg.File, "error", err)
		return nil
	}
	return before
}

// Changed says that there is something to save. It never waits.
func (k *Keeper) Changed() {
	select {
	case k.dirty <- struct{}{}:
	default: // a save is due already
	}
}

// Run saves after changes, and when ctx is done, and returns ctx.Err(). It saves nothing before the
// first change: by then what was loaded may not be believed yet, and the file is all there is of it.
func (k *Keeper) Run(ctx context.Context) error {
	if k.cfg.File == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	held := time.NewTicker(heldEvery)
	defer held.Stop()
	begun := false
	for {
		select {
		case <-ctx.Done():
			if begun || len(k.dirty) > 0 {
				k.save(time.Now())
			}
			return ctx.Err()
		case <-held.C:
			if k.deps.Held() == 0 {
				continue
			}
		case <-k.dirty:
		}
		begun = true
		k.save(time.Now())
		pause := time.NewTimer(saveEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// save replaces the file in one step: whoever is interrupted leaves the old one.
func (k *Keeper) save(now time.Time) {
	b, err := encode(now, k.cfg.Cluster, k.deps.Believed())
	if err == nil {
		err = datadir.WriteFile(k.cfg.File, b)
	}
	if err != nil {
		k.saveErrors.Inc()
		k.log.Warn("what the own registries list could not be saved", "file", k.cfg.File, "error", err)
	}
}

// encode and decode are each other's inverse, but for the time that passes in between.
func encode(now time.Time, cluster string, before map[string]intake.Before) ([]byte, error) {
	all := &storev1.RegistryViews{Cluster: cluster}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		b := before[name]
		v := &storev1.RegistryView{Name: name, Holds: holds.Record(now, name, b.Holds)}
		for _, i := range b.Instances {
			v.Instances = append(v.Instances, i.Proto())
		}
		for n, kind := range b.Strategies {
			if v.Strategies == nil {
				v.Strategies = make(map[string]string, len(b.Strategies))
			}
			v.Strategies[n.String()] = kind
		}
		all.Registries = append(all.Registries, v)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(all)
	if err != nil {
		// Some record is not text. It must not keep the others from being saved.
		for _, v := range all.GetRegistries() {
			v.Instances = slices.DeleteFunc(v.Instances, func(i *catalogv1.Instance) bool {
				_, err := proto.Marshal(i)
				return err != nil
			})
		}
		body, err = proto.MarshalOptions{Deterministic: true}.Marshal(all)
	}
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return datadir.Seal(what, body), nil
}

func decode(now time.Time, cluster string, b []byte) (map[string]intake.Before, error) {
	body, err := datadir.Unseal(what, b)
	if err != nil {
		return nil, err
	}
	var all storev1.RegistryViews
	if err := proto.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if all.GetCluster() != cluster {
		return nil, fmt.Errorf("it is of cluster %q, not %q", all.GetCluster(), cluster)
	}
	before := make(map[string]intake.Before, len(all.GetRegistries()))
	for _, v := range all.GetRegistries() {
		r := intake.Before{Holds: holds.Read(now, cluster, v.GetHolds())[v.GetName()], Strategies: map[catalog.Name]string{}}
		for _, p := range v.GetInstances() {
			r.Instances = append(r.Instances, catalog.InstanceFromProto(p))
		}
		for word, kind := range v.GetStrategies() {
			if namespace, service, ok := strings.Cut(word, "/"); ok {
				r.Strategies[catalog.Name{Namespace: namespace, Service: service}] = kind
			}
		}
		before[v.GetName()] = r
	}
	return before, nil
}
