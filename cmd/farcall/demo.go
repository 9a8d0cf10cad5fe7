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
takes a cluster, a list and the synchronizer away and brings them back; prints who served what.
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
			return daemon.Agent(ctx, c, log)
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
	missed   int // calls that went elsewhere than their strategy says
}

// demoCluster is one cluster of the demo: a file registry, a node with an agent, and two
// instances of cart.
type demoCluster struct {
	name     string
	registry string // path
	http     string // host:port of the agent's HTTP listener
	agent    *child
	apps     []*echo
}

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
	text := fmt.Sprintf("federation: demo\nlisten: %s\nhttp: {listen: %s}\nstore:\n  embedded: {dataDir: %s}\nclusters:\n",
		ports[0], ports[1], d.path("store"))
	for n, name := range []string{"east", "west", "edge"} {
		c := &demoCluster{name: name, registry: d.path(name + "-registry.yaml"), http: ports[2+3*n]}
		d.clusters = append(d.clusters, c)
		for i := 1; i <= 2; i++ {
			e, err := newEcho(fmt.Sprintf("cart-%d", i), name)
			if err != nil {
				return nil, err
			}
			c.apps = append(c.apps, e)
		}
		text += fmt.Sprintf("  - name: %s\n    resolvers:\n      - file: {path: %s}\n", name, c.registry)
		agent := fmt.Sprintf("cluster: %s\nnode: %s-1\nsynchronizers: [%s]\ndataDir: %s\nresolvers:\n  - file: {path: %s}\n"+
			"http: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\n",
			name, name, d.admin, d.path("agent-"+name), c.registry, ports[2+3*n], ports[3+3*n], ports[4+3*n])
		if err := errors.Join(c.list(true), os.WriteFile(d.path("agent-"+name+".yaml"), []byte(agent), 0o600)); err != nil {
			return nil, err
		}
		c.agent = newChild("agent-"+name, d.path("agent-"+name+".log"), "demo", "child", "agent", d.path("agent-"+name+".yaml"))
	}
	d.sync = newChild("synchronizer", d.path("synchronizer.log"), "demo", "child", "synchronizer", d.path("synchronizer.yaml"))
	return d, os.WriteFile(d.path("synchronizer.yaml"), []byte(text), 0o600)
}

func (d *demoWorld) path(name string) string { return filepath.Join(d.dir, name) }

// list writes the cluster's registry: its instances, or a service without any.
func (c *demoCluster) list(full bool) error {
	var b strings.Builder
	b.WriteString("services:\n  - name: cart\n    instances:")
	if !full {
		b.WriteString(" []")
	}
	b.WriteString("\n")
	if full {
		for _, e := range c.apps {
			fmt.Fprintf(&b, "      - {id: %s, address: 127.0.0.1, port: %d, node: %s-1}\n", e.id, e.port(), c.name)
		}
	}
	return os.WriteFile(c.registry, []byte(b.String()), 0o600)
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
	d.say("  edit %s and see it move", d.clusters[0].registry)
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
