package docs

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v3"
)

// daprConfiguration is as much of Dapr's Configuration as the documents use.
type daprConfiguration struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		NameResolution struct {
			Component     string `yaml:"component"`
			Version       string `yaml:"version"`
			Configuration struct {
				Template string `yaml:"template"`
			} `yaml:"configuration"`
		} `yaml:"nameResolution"`
	} `yaml:"spec"`
}

// readDapr reads a Configuration whose name resolver is the component kubernetes, and has its
// template make an address, as daprd does.
func readDapr(text string) error {
	var c daprConfiguration
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return err
	}
	if err := d.Decode(new(any)); err != io.EOF {
		return fmt.Errorf("want one document: %v", err)
	}
	n := c.Spec.NameResolution
	if c.APIVersion != "dapr.io/v1alpha1" || c.Kind != "Configuration" || c.Metadata.Name == "" || n.Component != "kubernetes" || n.Version != "v1" {
		return fmt.Errorf("is no Configuration of Dapr with the name resolver kubernetes: %+v", c)
	}
	t, err := template.New("address").Option("missingkey=error").Parse(n.Configuration.Template)
	if err != nil {
		return err
	}
	var address bytes.Buffer
	if err := t.Execute(&address, struct {
		ID, Namespace string
		Port          int
	}{"cart", "default", 50002}); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(address.String()); err != nil {
		return fmt.Errorf("the template gives no address: %w", err)
	}
	return nil
}

func TestReadDapr(t *testing.T) {
	const head = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: a}\n"
	resolver := func(template string) string {
		return head + "spec: {nameResolution: {component: kubernetes, version: v1, configuration: {template: '" + template + "'}}}\n"
	}
	if err := readDapr(resolver(`{{if eq .ID "a"}}x:1{{else}}127.0.0.1:2{{end}}`)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"", head, resolver("127.0.0.1"), resolver("{{.App}}:1"), resolver("{{if}}"),
		resolver("127.0.0.1:1") + "more: true\n", resolver("127.0.0.1:1") + "---\na: 1\n",
	} {
		if readDapr(bad) == nil {
			t.Errorf("no error for\n%s", bad)
		}
	}
}
