package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farcall/farcall/cmd/internal/daemon"
	"github.com/farcall/farcall/internal/config"
)

// errDemo says that the tour saw a call go where its strategy does not say.
var errDemo = errors.New("not every call went where its strategy says")

func newDemo() *cobra.Command {
	exit := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show one name served by three clusters, on this machine",
		Long: `Starts a synchronizer with an embedded store and three clusters of one node each, as
processes of its own on loopback and free ports; calls the service cart under every strategy;
moves its calls by a policy and a cordon; takes a cluster, a list and the synchronizer away and brings them back; prints who served what.
Then it stays up for you to play, until ^C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := newDemoWorld(cmd.OutOrStdout())
			if err != nil {
				return err
			}
			defer d.close()
			err = d.tour(cmd.Context())
			if err != nil && cmd.Context().Err() == nil {
				d.tails(cmd.ErrOrStderr())
			}
			if exit || err != nil {
				return err
			}
			return d.stayUp(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&exit, "exit", false, "end after the tour: exit code 0 only if every call went where its strategy says")
	cmd.AddCommand(newDemoChild())
	return cmd
}

// newDemoChild is how the demo starts its own processes. They end with their standard input, so
// that none is left behind however the demo ends.
func newDemoChild() *cobra.Command {
	return &cobra.Command{
		Use:    "child synchronizer|agent CONFIG",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() {
				// The process ends right after; there is nobody to wait for this.
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				cancel()
			}()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if args[0] == "synchronizer" {
				c, err := config.ReadSynchronizer(args[1])
				if err != nil {
					return err
				}
				return daemon.Synchronizer(ctx, c, log)
			}
			c, err := config.ReadAgent(args[1])
			if err != nil {
				return err
			}
			return daemon.Agent(ctx, c, daemon.Tokens{}, log)
		},
	}
}

// demoWorld is everything that the demo runs.
type demoWorld struct {
	out      io.Writer
	dir      string
	admin    string // host:port of the synchronizer
	sync     *child
	clusters []*demoCluster
	file     string // path of east's registry
	dns      *demoDNS
	missed   int // calls that went elsewhere than their strategy says
}

// demoCluster is one cluster of the demo: a registry, a node with an agent, and instances of
// cart.
type demoCluster struct {
	name     string
	registry string // in words
	http     string // host:port of the agent's HTTP listener
	agent    *child
	apps     []*echo
}

// newDemoWorld prepares three clusters, each with a registry of another kind: a file, the DNS, and
// none but its agent's word.
func newDemoWorld(out io.Writer) (_ *demoWorld, err error) {
	d := &demoWorld{out: out}
	if d.dir, err = os.MkdirTemp("", "farcall-demo-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	ports, err := freePorts(2 + 3*3)
	if err != nil {
		return nil, err
	}
	d.admin = ports[0]
	for n, c := range []struct {
		name, registry string
		instances      int
	}{{"east", "a file", 2}, {"west", "the DNS", 2}, {"edge", "its agent's word", 1}} {
		cluster := &demoCluster{name: c.name, registry: c.registry, http: ports[2+3*n]}
		d.clusters = append(d.clusters, cluster)
		for i := 1; i <= c.instances; i++ {
			e, err := newEcho(fmt.Sprintf("cart-%d", i), c.name)
			if err != nil {
				return nil, err
			}
			cluster.apps = append(cluster.apps, e)
		}
	}
	d.file = d.path("east-registry.yaml")
	if d.dns, err = newDemoDNS(d.clusters[1].apps); err != nil {
		return nil, err
	}
	return d, errors.Join(d.list(true), d.configure(ports))
}

// configure writes the daemons' configurations.
func (d *demoWorld) configure(ports []string) error {
	sources := []string{
		"resolvers: [file: {path: " + d.file + "}]",
		"resolvers: [dns: {servers: [\"" + d.dns.address() + "\"], services: {cart: {name: " + demoName + ", srvPort: app}}}]",
	}
	agents := slices.Concat(sources, []string{fmt.Sprintf("apps: [{id: cart, port: %d}]", d.clusters[2].apps[0].port())})
	sources = append(sources, "via: agents")

	text := fmt.Sprintf("federation: demo\nlisten: %s\nhttp: {listen: %s}\nstore:\n  embedded: {dataDir: %s}\nclusters:\n",
		ports[0], ports[1], d.path("store"))
	var errs []error
	for n, c := range d.clusters {
		text += fmt.Sprintf("  - name: %s\n    %s\n", c.name, sources[n])
		agent := fmt.Sprintf("cluster: %s\nnode: %s-1\nsynchronizers: [%s]\ndataDir: %s\n%s\nhttp: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\n",
			c.name, c.name, d.admin, d.path("agent-"+c.name), agents[n], ports[2+3*n], ports[3+3*n], ports[4+3*n])
		file := d.path("agent-" + c.name + ".yaml")
		errs = append(errs, os.WriteFile(file, []byte(agent), 0o600))
		c.agent = newChild("agent-"+c.name, d.path("agent-"+c.name+".log"), "demo", "child", "agent", file)
	}
	file := d.path("synchronizer.yaml")
	d.sync = newChild("synchronizer", d.path("synchronizer.log"), "demo", "child", "synchronizer", file)
	return errors.Join(append(errs, os.WriteFile(file, []byte(text), 0o600))...)
}

func (d *demoWorld) path(name string) string { return filepath.Join(d.dir, name) }

// list writes east's registry: its instances, or a service without any.
func (d *demoWorld) list(full bool) error {
	text := "services:\n  - name: cart\n    instances:"
	if !full {
		text += " []"
	}
	text += "\n"
	for _, e := range d.clusters[0].apps {
		if full {
			text += fmt.Sprintf("      - {id: %s, address: 127.0.0.1, port: %d, node: east-1}\n", e.id, e.port())
		}
	}
	return os.WriteFile(d.file, []byte(text), 0o600)
}

// close stops everything and removes the directory.
func (d *demoWorld) close() {
	for _, c := range d.clusters {
		if c.agent != nil {
			c.agent.kill()
		}
		for _, e := range c.apps {
			e.close()
		}
	}
	if d.sync != nil {
		d.sync.kill()
	}
	if d.dns != nil {
		d.dns.close()
	}
	_ = os.RemoveAll(d.dir) // a temporary directory: the system's cleaning takes what is left
}

// tails shows the last lines of every log.
func (d *demoWorld) tails(w io.Writer) {
	all := []*child{d.sync}
	for _, c := range d.clusters {
		all = append(all, c.agent)
	}
	for _, c := range all {
		b, err := os.ReadFile(c.log)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		fmt.Fprintf(w, "--- %s\n%s\n", c.name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// stayUp leaves the federation to whoever started it.
func (d *demoWorld) stayUp(ctx context.Context) error {
	d.say("")
	d.say("The federation stays up until ^C. In another terminal:")
	d.say("  curl -i http://%s/v1.0/invoke/cart/method/hello", d.clusters[0].http)
	d.say("  curl -i -H 'farcall-strategy: external-first' http://%s/v1.0/invoke/cart/method/hello", d.clusters[0].http)
	d.say("  farcall --server %s get instances", d.admin)
	d.say("  farcall --server %s explain cart --from east", d.admin)
	d.say("  edit %s and see it move", d.file)
	<-ctx.Done()
	return nil
}

func (d *demoWorld) say(format string, a ...any) { fmt.Fprintf(d.out, format+"\n", a...) }

// freePorts returns loopback addresses that were free just now. They lie below the range from
// which systems draw the ports of outgoing connections (32768 and up on Linux), so that nobody is
// given one by chance before it is listened on, or while its process is away.
func freePorts(n int) ([]string, error) {
	var out []string
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close() // it was only to hold the port
		}
	}()
	var err error
	for range 100 * n {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(20_000))); err != nil {
			continue
		}
		held = append(held, l)
		if out = append(out, l.Addr().String()); len(out) == n {
			return out, nil
		}
	}
	return nil, fmt.Errorf("no free ports on loopback: %w", err)
}

// within asks ok until it returns nil, for at most limit.
func within(ctx context.Context, limit time.Duration, what string, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, err)
		case <-tick.C:
		}
	}
}
