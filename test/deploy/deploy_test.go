package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// listeners reads a daemon's configuration and gives its listeners, those with port 0 left out.
func listeners(name string, text []byte) ([]string, error) {
	switch filepath.Base(name) {
	case "synchronizer.yaml":
		c, err := config.ParseSynchronizer(name, text)
		if err != nil {
			return nil, err
		}
		return []string{c.Listen, c.HTTP.Listen}, nil
	case "agent.yaml":
		c, err := config.ParseAgent(name, text)
		if err != nil {
			return nil, err
		}
		return []string{c.Internal.Listen, c.HTTP.Listen, c.GRPC.Listen, c.Metrics.Listen}, nil
	}
	return nil, fmt.Errorf("%s: neither synchronizer.yaml nor agent.yaml", name)
}

// glob lists files of deploy/ and fails the test if there are none.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testkit.Root(t), "deploy", filepath.FromSlash(pattern)))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %d files", pattern, err, len(files))
	}
	return files
}

func TestSystemdConfigurationsAreValid(t *testing.T) {
	for _, file := range glob(t, "systemd/*.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listeners(file, text); err != nil {
			t.Error(err)
		}
	}
}

// unit reads a unit file: values by section and key.
func unit(text string) (map[string][]string, error) {
	out := map[string][]string{}
	section := ""
	for i, line := range strings.Split(text, "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				return nil, fmt.Errorf("line %d: %q is neither a section nor a setting", i+1, line)
			}
			out[section+"."+key] = append(out[section+"."+key], value)
		}
	}
	return out, nil
}

func TestSystemdUnitsStartWhatThereIs(t *testing.T) {
	root := testkit.Root(t)
	for _, file := range glob(t, "systemd/*.service") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		u, err := unit(string(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		command := strings.Fields(strings.Join(u["Service.ExecStart"], " "))
		if len(command) != 3 || command[1] != "--config" {
			t.Fatalf("%s: ExecStart is %q, want one program and its --config", file, command)
		}
		if _, err := os.Stat(filepath.Join(root, "cmd", filepath.Base(command[0]), "main.go")); err != nil {
			t.Errorf("%s starts %s: %v", file, command[0], err)
		}
		// The example beside the unit says where its data is; systemd must have made that folder.
		example, err := os.ReadFile(filepath.Join(filepath.Dir(file), filepath.Base(command[2])))
		if err != nil {
			t.Fatal(err)
		}
		for _, state := range u["Service.StateDirectory"] {
			if dir := "/var/lib/" + state; !bytes.Contains(example, []byte("dataDir: "+dir)) {
				t.Errorf("%s makes %s, which the example does not use", file, dir)
			}
		}
	}
}

// object is what these tests read of a Kubernetes object.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name, Namespace string }
	Data       map[string]string
	Spec       struct {
		Replicas int
		Selector yaml.Node
		Ports    []struct {
			Name       string
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		Template             podTemplate
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type podTemplate struct {
	Metadata struct{ Labels map[string]string }
	Spec     struct {
		Containers []container
		Volumes    []struct {
			Name      string
			ConfigMap *struct{ Name string } `yaml:"configMap"`
		}
	}
}

type container struct {
	Name  string
	Args  []string
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	LivenessProbe  probe `yaml:"livenessProbe"`
	ReadinessProbe probe `yaml:"readinessProbe"`
	VolumeMounts   []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// manifests gives every object in deploy/kubernetes by "Kind/name".
func manifests(t *testing.T) map[string]*object {
	t.Helper()
	out := map[string]*object{}
	for _, file := range glob(t, "kubernetes/*.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dec := yaml.NewDecoder(bytes.NewReader(text))
		for {
			o := &object{}
			if err := dec.Decode(o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			key := o.Kind + "/" + o.Metadata.Name
			if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" || out[key] != nil {
				t.Errorf("%s: %s has no apiVersion, kind or name, or is there twice", file, key)
			}
			namespace := "farcall"
			if slices.Contains([]string{"Namespace", "ClusterRole", "ClusterRoleBinding"}, o.Kind) {
				namespace = "" // they are the cluster's
			}
			if o.Metadata.Namespace != namespace {
				t.Errorf("%s: %s is in namespace %q, want %q", file, key, o.Metadata.Namespace, namespace)
			}
			out[key] = o
		}
	}
	return out
}

func TestKubernetesManifestsAgreeWithTheirConfigurations(t *testing.T) {
	all := manifests(t)
	checked := 0
	for key, o := range all {
		for _, c := range o.Spec.Template.Spec.Containers {
			checked++
			checkContainer(t, key, o, c, all)
		}
	}
	if checked != 2 {
		t.Errorf("%d containers, want the synchronizer's and the agent's", checked)
	}
}

func checkContainer(t *testing.T, key string, o *object, c container, all map[string]*object) {
	t.Helper()
	if len(c.Args) != 3 || c.Args[1] != "--config" {
		t.Fatalf("%s: args are %q, want a program and its --config", key, c.Args)
	}
	if _, err := os.Stat(filepath.Join(testkit.Root(t), "cmd", c.Args[0], "main.go")); err != nil {
		t.Errorf("%s runs %s: %v", key, c.Args[0], err)
	}
	volumes := map[string]string{} // name: its config map, if any
	for _, v := range o.Spec.Template.Spec.Volumes {
		volumes[v.Name] = ""
		if v.ConfigMap != nil {
			volumes[v.Name] = v.ConfigMap.Name
		}
	}
	for _, v := range o.Spec.VolumeClaimTemplates {
		volumes[v.Metadata.Name] = ""
	}
	text := ""
	for _, m := range c.VolumeMounts {
		from, ok := volumes[m.Name]
		if !ok {
			t.Errorf("%s mounts %s, which is no volume of it", key, m.Name)
		}
		if cm := all["ConfigMap/"+from]; cm != nil && m.MountPath == filepath.Dir(c.Args[2]) {
			text = cm.Data[filepath.Base(c.Args[2])]
		}
	}
	listen, err := listeners(c.Args[2], []byte(text))
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	checkPorts(t, key, c, listen)
}

// checkPorts wants the container's ports to be what its configuration listens on, and its probes
// on one of them.
func checkPorts(t *testing.T, key string, c container, listen []string) {
	t.Helper()
	var want, got, names []string
	for _, l := range listen {
		_, port, err := net.SplitHostPort(l)
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		want = append(want, port)
	}
	for _, p := range c.Ports {
		got, names = append(got, fmt.Sprint(p.ContainerPort)), append(names, p.Name)
	}
	if !slices.Equal(want, got) {
		t.Errorf("%s: ports %v, but its configuration listens on %v", key, got, want)
	}
	for _, p := range []probe{c.LivenessProbe, c.ReadinessProbe} {
		if !slices.Contains(names, p.HTTPGet.Port) || !slices.Contains([]string{"/healthz", "/readyz"}, p.HTTPGet.Path) {
			t.Errorf("%s: a probe of %s at port %q", key, p.HTTPGet.Path, p.HTTPGet.Port)
		}
	}
}

func TestKubernetesServicesReachTheirPods(t *testing.T) {
	all := manifests(t)
	checked := 0
	for key, o := range all {
		if o.Kind != "Service" {
			continue
		}
		checked++
		var selector map[string]string
		if err := o.Spec.Selector.Decode(&selector); err != nil || len(selector) == 0 {
			t.Fatalf("%s: selector: %v, %v", key, selector, err)
		}
		ports := map[string]int{}
		for _, w := range all {
			labels := w.Spec.Template.Metadata.Labels
			for k, v := range selector {
				if labels[k] == v {
					for _, p := range w.Spec.Template.Spec.Containers[0].Ports {
						ports[p.Name] = p.ContainerPort
					}
				}
			}
		}
		for _, p := range o.Spec.Ports {
			if ports[p.TargetPort] != p.Port {
				t.Errorf("%s: port %d leads to %q, which is %d", key, p.Port, p.TargetPort, ports[p.TargetPort])
			}
		}
	}
	if checked == 0 {
		t.Error("no Service: nothing was checked")
	}
}
