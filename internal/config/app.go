package config

import (
	"errors"
	"fmt"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
)

// App says how calls for one application of this node are delivered, and by what its own calls are
// known.
type App struct {
	// ID is the app-id, unique in its namespace at this agent.
	ID        string `yaml:"id"`
	Namespace string `yaml:"namespace" default:"default"`
	// Port is the application's own, 1 to 65535; 0: only its registry knows it. With the protocol
	// dapr it is its sidecar's, for calls from other sidecars.
	Port int `yaml:"port,omitempty"`
	// Protocol is http, https, h2c, grpc or dapr.
	Protocol string `yaml:"protocol" default:"http"`
	// Register puts the application into the node's own registry, one that takes registrations.
	Register bool `yaml:"register,omitempty"`
	// Token is shown to the application with every call (Dapr's APP_API_TOKEN), and a caller that
	// shows it is the application. TokenFile names a file that holds it. At most one is set, and no
	// two applications have the same.
	Token     Secret `yaml:"token,omitempty"`
	TokenFile string `yaml:"tokenFile,omitempty"`
	// TLS, with the protocol https or grpc only, says how the application's certificate is checked
	// and what is shown to it. Without it, https checks by the system's authorities, and grpc is
	// plaintext.
	TLS *AppTLS `yaml:"tls,omitempty"`
}

// AppTLS is what it needs to speak TLS with an application. CA, Cert and Key are paths of PEM files;
// Cert and Key are set together or not at all.
type AppTLS struct {
	// CA are the authorities to trust; empty: the system's.
	CA   string `yaml:"ca,omitempty"`
	Cert string `yaml:"cert,omitempty"`
	Key  string `yaml:"key,omitempty"`
	// ServerName is the name that the certificate must be for; empty: the host that is dialled.
	ServerName string `yaml:"serverName,omitempty"`
	// Insecure takes any certificate, as Dapr does.
	Insecure bool `yaml:"insecure,omitempty"`
}

func (v *validator) apps(a *Agent) {
	registers := slices.ContainsFunc(a.Resolvers, Resolver.TakesRegistrations)
	seen := map[catalog.Name]string{}
	for i, app := range a.Apps {
		at := fmt.Sprintf("apps[%d]", i)
		v.missing(at, "id", app.ID == "", "want the app-id")
		if err := checkName(app.ID); app.ID != "" && err != nil {
			v.errorf(at+".id", "%v", err)
		}
		v.namespace(at+".namespace", app.Namespace)
		name := catalog.Name{Namespace: app.Namespace, Service: app.ID}
		if first, ok := seen[name]; ok && app.ID != "" {
			v.errorf(at+".id", "%s is %s in line %d as well: an application is listed once", name, first, v.lines[first])
		} else {
			seen[name] = at
		}
		// A port that is left out is 0 as well; only one that is written is wrong.
		if _, written := v.lines[at+".port"]; written && app.Port < 1 || app.Port > 65535 {
			v.errorf(at+".port", "%d is not in 1 to 65535", app.Port)
		}
		v.word(at+".protocol", app.Protocol, protocols)
		v.appToken(a.Apps, i)
		v.appTLS(at, app)
		if !app.Register {
			continue
		}
		v.missing(at, "port", app.Port == 0, "register: true needs the application's port")
		if !registers {
			v.errorf(at+".register", "no registry under resolvers takes registrations: add a consul or an mdns, or leave register out")
		}
	}
}

// CheckToken says why s cannot be a token, or nil. It never repeats it.
func CheckToken(s string) error {
	if s == "" {
		return errors.New("is empty: want a token")
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return errors.New("holds a character that no header takes: want printable ASCII")
		}
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return errors.New("begins or ends with a space, which no header keeps")
	}
	return nil
}

// appToken checks the token of one of the applications.
func (v *validator) appToken(apps []App, i int) {
	at, app := fmt.Sprintf("apps[%d]", i), apps[i]
	_, token := v.lines[at+".token"]
	_, file := v.lines[at+".tokenFile"]
	switch {
	case token && file:
		v.errorf(at+".tokenFile", "stands beside %s.token: want one of them", at)
	case file:
		v.missing(at, "tokenFile", app.TokenFile == "", "want the path of a file that holds the token")
	case token:
		if err := CheckToken(app.Token.Value()); err != nil {
			v.errorf(at+".token", "%v", err)
			return
		}
		// What Effective shows in place of the tokens is the same for all.
		first := slices.IndexFunc(apps, func(a App) bool { return a.Token == app.Token })
		if first < i && app.Token != redacted {
			v.errorf(at+".token", "is that of apps[%d] in line %d as well: an application is known by its token", first, v.lines[fmt.Sprintf("apps[%d].token", first)])
		}
	}
}

// appTLS checks how TLS is spoken with one of the applications.
func (v *validator) appTLS(at string, app App) {
	t := app.TLS
	if t == nil {
		return
	}
	at += ".tls"
	switch app.Protocol {
	case "http":
		v.errorf(at, "stands beside protocol http, which is plaintext: write protocol: https, or leave tls out")
	case "h2c":
		v.errorf(at, "stands beside protocol h2c, which is plaintext: write protocol: https, which speaks HTTP/2 as well, or leave tls out")
	case "dapr":
		v.errorf(at, "stands beside protocol dapr: the sidecar is called in plaintext, and speaks TLS with its application itself; write protocol: https to call the application, or leave tls out")
	}
	v.tls(at, &TLS{Cert: t.Cert, Key: t.Key, CA: t.CA})
	if t.Insecure && t.CA != "" {
		v.errorf(at+".insecure", "stands beside %s.ca: want one of them, since insecure: true takes any certificate", at)
	}
	if t.ServerName != "" {
		if err := catalog.CheckHost(t.ServerName); err != nil {
			v.errorf(at+".serverName", "%v", err)
		}
	}
}
