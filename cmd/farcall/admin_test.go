package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

func TestTables(t *testing.T) {
	server := serve(t, &fakeAdmin{pageSize: 2})
	for _, c := range []struct {
		args, stdout, stderr string
	}{
		{
			args: "get clusters",
			stdout: `
CLUSTER  STATE      AGE    SERVICES  INSTANCES  LOCALITY  OWNER   EPOCH                 REGISTRIES
east     SYNCED     <1s    2         7          eu/eu-1   sync-a  3                     1/1
west     PROTECTED  3h05m  0         0          -         -       18446744073709551615  1/4
edge     STALE      1h00m  0         0          -         sync-a  1                     1/2
new      UNKNOWN    -      0         0          -         -       0                     0/0

CLUSTER  REGISTRY          STATE    LAST-SUCCESS  SERVICES  INSTANCES  REVISION  HELD  SET-ASIDE  SHADOWED  REPORTER
east     consul            OK       <1s           2         7          1042      6     0          0         -
west     file              FAILED   3h05m         3         12         -         0     0          0         -
west     consul            OK       <1s           0         0          -         0     1          3         -
west     dns               FAILED   -             0         0          -         0     0          0         -
west     file-2            FAILED   2h00m         0         0          -         0     0          0         -
edge     mdns@10.8.0.0/24  OK       1h00m         1         1          -         0     0          0         node-3
edge     consul            PENDING  -             0         0          -         0     0          0         -

east: consul no longer lists 6 instances, which the guard does not believe yet: they stay until they return, are released, or their hold is over; farcall get holds lists them
west: file cannot be read since 3h04m: open west.yaml: no such file; its last list of 12 instances stays
west: consul has 1 record that cannot be used: cart/x: port 70000 is not in 1 to 65535
west: dns cannot be read since 1h00m: dns: 10.0.0.1:53: refused; what it lists is unknown
west: file-2 cannot be read since 1h00m: file: no services key; its last list, an empty one, stays
edge: mdns@10.8.0.0/24 (reported by node-3) has said nothing for 1h00m: either it does not answer, or the cluster's owner is gone; its last list of 1 instance stays
edge: consul is being read for the first time since 2h00m; what it lists is unknown
west: cordoned by ann since 1h00m, ends in 5d00h: new switches
west: service shop/billing is cordoned
`},
		{
			args: "get services",
			stdout: `
NAMESPACE  SERVICE  HEALTHY  CLUSTERS
default    cart     2/4      east 2/3, west 0/1
shop       billing  0/0      -
`},
		{
			args: "get instances",
			stdout: `
CLUSTER  NAMESPACE  SERVICE  ID           ADDRESS         RELAY           NODE    HEALTH     WEIGHT  LOCALITY  REGISTRY  AGE
east     default    cart     cart-1       10.0.0.5:8080   -               node-1  HEALTHY    1       eu/eu-1   consul    <1s
west     default    cart     cart 2?[31m  [fd00::1]:8080  10.1.0.6:50002  -       UNHEALTHY  50      -         file      12s
west     shop       billing  5            billing.west    10.1.0.7:50002  -       UNKNOWN    1       -         file      12s
`,
			stderr: "note: west is STALE, last confirmed 12s ago\nnote: edge was never synced: what it has is unknown\n"},
		{
			args: "get instances --cluster west --namespace default --service cart --health UNHEALTHY",
			stdout: `
CLUSTER  NAMESPACE  SERVICE  ID           ADDRESS         RELAY           NODE  HEALTH     WEIGHT  LOCALITY  REGISTRY  AGE
west     default    cart     cart 2?[31m  [fd00::1]:8080  10.1.0.6:50002  -     UNHEALTHY  50      -         file      12s
`,
			stderr: "note: west is STALE, last confirmed 12s ago\nnote: edge was never synced: what it has is unknown\n"},
		{
			args: "get agents",
			stdout: `
CLUSTER  NODE    ADDRESS         CONNECTED  REVISION  DRIFTS  LOCALITY  VERSION  APPLICATIONS
east     node-1  10.0.0.1:50002  yes        42        3       eu        v0.1.0   default/cart (http), shop/billing (grpc)
west     node-2  10.1.0.1:50002  no         -         -       -         -        -
`},
		{
			args: "get policies",
			stdout: `
TARGET                FROM       STRATEGY        SETTINGS                                                                     REVISION  SINCE  AUTHOR  WARNINGS
cluster east          -          -               failover: {threshold: 80, minAvailable: 1, mode: spill}, weights: {west: 2}  3         2h00m  -       -
namespace shop        east,west  local-only      override: deny, retry: {attempts: 2, idempotent: [PUT]}, staleTTL: 1h        4         -      bob     -
service default/cart  -          external-first  externalOrder: [[wset], ["*"]]                                               7         <1s    ann?    externalOrder[0][0]: nobody has heard of a cluster "wset"
service shop/new      -          astral-first    holds what this farcall does not know                                        9         -      -       -
`,
			stderr: "applied by 2 of 3 agents\nrefused by east/node-2: policy service shop/new: unknown strategy\n"},
		{
			args: "get cordons",
			stdout: `
CLUSTER  SERVICE       SINCE  ENDS-IN  REVISION  AUTHOR  REASON
east     -             -      over     2         -       -
west     -             1h00m  5d00h    5         ann     new switches
west     shop/billing  -      -        8         -       -
`},
		{
			args: "get holds",
			stdout: `
CLUSTER  REGISTRY  SERVICE       ID           SINCE  UNTIL  HOLDER                 REASON     WHY
east     consul    default/cart  cart-1       2h00m  2h59m  owner                  catalogue  all 6 instances of the registry were gone in one read
east     consul    shop/billing  b?1          2h00m  2h59m  owner                  catalogue  all 6 instances of the registry were gone in one read
west     it's 1    default/cart  9            1h00m  4h59m  owner                  burst      more than 5 removals in 10s
east     consul    *             6 instances  2h00m  -      agents node-1, node-3  catalogue  all 6 instances of the registry were gone in one read; ends when the cluster's owner lists them no more
east     file      shop/pay      p?           1h00m  4h59m  agent node-2           burst      more than 5 removals in 10s; ends by the agent's own time
`,
			stderr: "note: there are 7 more; --cluster and --service list some of them\n" +
				"note: what is held in edge is not known: synchronizer sync-b did not answer in time\nnote: what is held in new is not known: nobody owns it\n" +
				"note: what agents hold that report to synchronizer sync-b is not known: it does not answer\n"},
		{
			args: "get holds --cluster east --namespace shop --service billing",
			stdout: `
CLUSTER  REGISTRY  SERVICE       ID   SINCE  UNTIL  HOLDER  REASON     WHY
east     consul    shop/billing  b?1  2h00m  2h59m  owner   catalogue  all 6 instances of the registry were gone in one read
`},
		{
			args:   "get holds --service none",
			stdout: "\nCLUSTER  REGISTRY  SERVICE  ID  SINCE  UNTIL  HOLDER  REASON  WHY\n",
			stderr: "no holds\n"},
		{
			args:   "get services --cluster empty",
			stdout: "\nNAMESPACE  SERVICE  HEALTHY  CLUSTERS\n",
			stderr: "no services\n"},
		{
			args: "explain cart --from east",
			stdout: `
default/cart from east: local-first (policy service default/cart), computed by agent east/node-1, from its own view
policy service default/cart: local-first: local has 2 of 3 available, below the threshold of 80 %
recover-all: nobody is available, and those that are not well are used all the same

TIER  NAME   SHARE  AVAILABLE  WHY
0     local  62.5%  2/3        66 % of 80 %
1     *      37.5%  1/1        the? rest

PICKED  TIER  CLUSTER  STATE   AGE    ID           REGISTRY  HEALTH     WEIGHT  DIAL            WHY NOT
62.5%   0     east     SYNCED  <1s    cart-1       consul    HEALTHY    1.5     10.0.0.1:50002  -
no      -     west     STALE   1m30s  cart 2?[31m  file      UNHEALTHY  50      -               UNHEALTHY: its registry says so

SETTING   VALUE            SOURCE
strategy  local-first      policy service default/cart
failover  {threshold: 80}  policy cluster east

note: it does not understand policy namespace shop
`,
			stderr: "note: west is STALE, last confirmed 12s ago\nnote: edge was never synced: what it has is unknown\n"},
		{
			args: "explain lonely --from west --namespace shop --strategy local-only",
			stdout: `
shop/lonely from west: local-only (request), computed by synchronizer
nobody would be picked: NO_LOCAL_INSTANCES: west has no instance of it
`},
	} {
		t.Run(c.args, func(t *testing.T) {
			got := farcall(t, "", append([]string{"--server", server}, strings.Fields(c.args)...)...)
			got.want(t, exitOK)
			want := strings.TrimPrefix(c.stdout, "\n")
			if got.stdout != want {
				t.Errorf("stdout\n%s\nwant\n%s", got.stdout, want)
			}
			if got.stderr != c.stderr {
				t.Errorf("stderr\n%s\nwant\n%s", got.stderr, c.stderr)
			}
		})
	}
}

// What -o json prints is protojson of the answer with all its pages, and the same bytes each time.
func TestJSONAndYAMLAreTheAnswer(t *testing.T) {
	server := serve(t, &fakeAdmin{pageSize: 1, asIs: true})
	for _, c := range []struct {
		args string
		want proto.Message
	}{
		{"get clusters", clusters},
		{"get clusters --max-staleness 2h", clusters},
		{"get services", services},
		{"get instances", &adminv1.ListInstancesResponse{Instances: instances, Clusters: clusterStates}},
		{"get agents", agents},
		{"explain cart --from east", explained},
		{"get policies", policyList},
		{"get cordons", cordonList},
		{"get holds", holdList},
		{"policy preview --delete service/cart", previewed},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := append([]string{"--server", server}, strings.Fields(c.args)...)
			asJSON := farcall(t, "", append(args, "-o", "json")...)
			asJSON.want(t, exitOK)
			if asJSON.stderr != "" {
				t.Errorf("stderr %q", asJSON.stderr)
			}
			b, err := protojson.Marshal(c.want)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			if err := json.Indent(&want, b, "", "  "); err != nil {
				t.Fatal(err)
			}
			if asJSON.stdout != want.String()+"\n" {
				t.Errorf("stdout\n%s\nwant\n%s", asJSON.stdout, want.String())
			}
			if again := farcall(t, "", append(args, "-o", "json")...); again.stdout != asJSON.stdout {
				t.Errorf("a second time\n%s\nthe first time\n%s", again.stdout, asJSON.stdout)
			}

			asYAML := farcall(t, "", append(args, "-o", "yaml")...)
			asYAML.want(t, exitOK)
			got := c.want.ProtoReflect().New().Interface()
			if err := protojson.Unmarshal(fromYAML(t, asYAML.stdout), got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, c.want) || strings.HasPrefix(asYAML.stdout, "{") {
				t.Errorf("YAML\n%s\nis not\n%s", asYAML.stdout, b)
			}
		})
	}
}

// fromYAML gives YAML as JSON.
func fromYAML(t *testing.T, s string) []byte {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in\n%s", err, s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzYAMLKeepsEveryText(f *testing.F) {
	for _, s := range []string{"", "5", "true", "null", "~", "a: b", "x\ny", " lead", "😀", "\u2028\u0085\x7f\x9f\ufeff\ufffe\uffff", "#", "-", "'\"", "0x1f", "\t", "<<", "1e3", "2020-01-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := json.Marshal(map[string]string{"key": s})
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]string
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := writeYAML(&out, b); err != nil {
			t.Fatalf("%v of %s", err, b)
		}
		var got map[string]any
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil || got["key"] != want["key"] {
			t.Fatalf("%q was written as\n%s\nwhich reads as %q, error %v", want["key"], out.String(), got["key"], err)
		}
	})
}

func TestExitCodesOfQuestions(t *testing.T) {
	server := serve(t, &fakeAdmin{pageSize: 1})
	for _, c := range []struct {
		args  string
		code  int
		words []string
	}{
		{"get services --cluster wst", exitRefused, []string{`farcall: list services: not found: no cluster "wst"; did you mean "west"?`}},
		{"get services --cluster slow", exitDeadline, []string{"list services: deadline exceeded: etcd took too long"}},
		{"get services --cluster broken", exitFailed, []string{"list services: data loss: two lines\n"}},
		{"get clusters --max-staleness 1m", exitUnavailable, []string{"list clusters: unavailable (STALE): west was confirmed 3h5m ago"}},
		{"get instances --cluster loop", exitFailed, []string{"list instances: the synchronizer gives the same page again and again"}},
		{"explain cart --from east --strategy local-frist", exitRefused, []string{"explain cart: invalid argument: unknown strategy", "did you mean"}},

		{"get", exitUsage, []string{"get what? Want one of clusters, services, instances, agents, policies, cordons, holds", "farcall get --help"}},
		{"get instance", exitUsage, []string{`get has no "instance"; did you mean "instances"?`}},
		{"get volumes", exitUsage, []string{`get has no "volumes": want one of clusters`}},
		{"watch", exitUsage, []string{"watch what? Want one of instances"}},
		{"gte", exitUsage, []string{"unknown command", "get"}},
		{"get clusters now", exitUsage, []string{"unknown command \"now\""}},
		{"get clusters --colour", exitUsage, []string{"unknown flag: --colour", "farcall get clusters --help"}},
		{"get clusters --max-staleness soon", exitUsage, []string{"invalid argument"}},
		{"get clusters --max-staleness -1s", exitUsage, []string{"--max-staleness -1s is below 0"}},
		{"get instances --health healthy", exitUsage, []string{`--health: unknown health "healthy": want UNKNOWN, HEALTHY`}},
		{"get clusters -o xml", exitUsage, []string{`--output "xml": want one of table, json, yaml`}},
		{"explain cart", exitUsage, []string{"--from is missing"}},
		{"explain --from east", exitUsage, []string{"accepts 1 arg(s), received 0"}},
		{"get clusters --server 7700", exitUsage, []string{`--server "7700": want host:port`}},
		{"get clusters --server x:y", exitUsage, []string{`--server "x:y": want host:port`}},
		{"call a b --agent unix://x", exitUsage, []string{`--agent "unix://x": want host:port or unix:///path`}},
		{"version", exitOK, nil},
		{"--help", exitOK, nil},
		{"", exitOK, nil},
	} {
		t.Run(c.args, func(t *testing.T) {
			got := farcall(t, "", append([]string{"--server", server}, strings.Fields(c.args)...)...)
			got.want(t, c.code, c.words...)
			if c.code != exitOK && got.stdout != "" {
				t.Errorf("an error left this on stdout:\n%s", got.stdout)
			}
		})
	}
}

func TestNobodyAtServer(t *testing.T) {
	server := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	for _, args := range []string{
		"get clusters", "get services", "get instances", "get agents", "get policies", "get cordons", "explain a --from b", "watch instances",
		"policy delete service/cart", "policy preview --delete service/cart", "cordon east", "uncordon east", "get holds", "holds release east", "check",
	} {
		got := farcall(t, "", append([]string{"--server", server}, strings.Fields(args)...)...)
		got.want(t, exitUnreachable, "nobody answers at "+server, "hint: is a synchronizer running at "+server+"? --server says where to ask")
	}
}

func TestWatch(t *testing.T) {
	server := serve(t, &fakeAdmin{})
	for _, c := range []struct {
		args, stdout, stderr string
	}{
		{
			args: "watch instances",
			stdout: `
EVENT     CLUSTER       SERVICE                   ID                            ADDRESS                HEALTH
SNAPSHOT  east          default/cart              cart-1                        10.0.0.5:8080          HEALTHY
UPSERT    west          default/cart              cart 2?[31m                   [fd00::1]:8080         UNHEALTHY
DELETE    east          default/cart              cart-1                        10.0.0.5:8080          HEALTHY
`,
			stderr: "note: the list is complete; changes follow\nnote: west is STALE, last confirmed 12s ago\nnote: east is SYNCED\n"},
		{
			args: "watch instances --cluster west -o json",
			stdout: `
{"type":"SYNCED"}
{"type":"UPSERT","instance":{"cluster":"west","namespace":"default","service":"cart","id":"cart\t2\u001b[31m","address":"fd00::1","port":8080,"relay":"10.1.0.6:50002","weight":50,"health":"UNHEALTHY","registry":"file"}}
{"type":"CLUSTER","cluster":{"cluster":"west","state":"STALE","age":"12s"}}
{"type":"CLUSTER","cluster":{"cluster":"east","state":"SYNCED","age":"0.400s"}}
`},
		{
			args:   "watch instances --cluster none -o yaml",
			stdout: "\n---\ntype: SYNCED\n---\ntype: CLUSTER\ncluster:\n  cluster: west\n  state: STALE\n  age: 12s\n---\ntype: CLUSTER\ncluster:\n  cluster: east\n  state: SYNCED\n  age: 0.400s\n"},
	} {
		t.Run(c.args, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(testkit.Context(t))
			defer interrupt()
			var stdout, stderr buffer
			code := make(chan int, 1)
			go func() {
				code <- execute(ctx, append([]string{"--server", server}, strings.Fields(c.args)...), strings.NewReader(""), &stdout, &stderr)
			}()
			want := strings.TrimPrefix(c.stdout, "\n")
			testkit.Eventually(t, testkit.Context(t), "what was watched", func() error {
				if stdout.String() != want || stderr.String() != c.stderr {
					return fmt.Errorf("stdout\n%s\nstderr\n%s", stdout.String(), stderr.String())
				}
				return nil
			})
			interrupt()
			if got := <-code; got != exitOK {
				t.Errorf("^C ended the watch with %d, stderr\n%s", got, stderr.String())
			}
		})
	}
}

func TestWatchThatTheServerEnds(t *testing.T) {
	end := make(chan struct{})
	close(end)
	got := farcall(t, "", "--server", serve(t, &fakeAdmin{end: end}), "watch", "instances")
	got.want(t, exitUnreachable, "watch instances: the synchronizer ended the watch", "hint: run it again")
}

func TestAges(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "<1s", 0: "<1s", 999 * time.Millisecond: "<1s", time.Second: "1s", 59 * time.Second: "59s", time.Minute: "1m00s",
		time.Hour - time.Second: "59m59s", 23*time.Hour + 5*time.Minute: "23h05m", 24 * time.Hour: "1d00h", 100*24*time.Hour + 3*time.Hour: "100d03h",
	} {
		if got := age(durationpb.New(d)); got != want {
			t.Errorf("%s is %s, want %s", d, got, want)
		}
	}
	if got := age(nil); got != "-" {
		t.Errorf("no age is %s", got)
	}
}

func TestErrorsWithoutAStatusKeepTheirWords(t *testing.T) {
	err := (&admin{}).inWords("list clusters", errors.New("disk full"))
	if err == nil || err.Error() != "list clusters: disk full" {
		t.Errorf("got %v", err)
	}
}

// What the synchronizer itself said is its word, also where the connection is not known to be up.
func TestWhoSaysUnavailable(t *testing.T) {
	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a := &admin{conn: conn, server: "127.0.0.1:1"}
	said := status.Error(codes.Unavailable, "no store")
	for _, c := range []struct {
		event stats.RPCStats
		want  string
	}{
		{&stats.Begin{}, "list: nobody answers at 127.0.0.1:1: no store"},
		{&stats.InTrailer{}, "list: unavailable: no store"},
		{&stats.End{}, "list: unavailable: no store"},
		{&stats.Begin{}, "list: nobody answers at 127.0.0.1:1: no store"},
	} {
		a.ended.HandleRPC(t.Context(), c.event)
		if got := a.inWords("list", said); got.Error() != c.want {
			t.Errorf("after %T it is %q, want %q", c.event, got, c.want)
		}
	}
}
