package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

const (
	// pageSize bounds what one answer to a list holds, as client-go's own pager does.
	pageSize = 500
	// queries and burst bound lists and probes, which ask one at a time, should they ever go round
	// in circles. Client-go's default of 5 in a second would make a start with many namespaces
	// slow; the API server has limits of its own. Client-go does not count watches.
	queries = 50
	burst   = 100

	pageTimeout  = 15 * time.Second
	probeTimeout = 2 * time.Second
	dialTimeout  = 5 * time.Second
	// pingAfter and pingTimeout find out that a connection is dead: nothing came over it for the
	// one, and no answer to a ping within the other.
	pingAfter   = 5 * time.Second
	pingTimeout = 5 * time.Second
)

// table is one resource in one namespace, or in all of them where that is empty.
type table struct {
	resource  string
	namespace string
	client    rest.Interface
	list      func() runtime.Object
	// metadata asks for the objects' metadata instead of all of them.
	metadata bool
}

// String names it for people.
func (t *table) String() string {
	switch {
	case t.metadata: // nodes are in no namespace
		return t.resource
	case t.namespace == "":
		return t.resource + " in all namespaces"
	}
	return t.resource + " in namespace " + t.namespace
}

// connection is a way to one API server, with connections that are its own.
type connection struct {
	tables []*table
	// home is where the Service default/kubernetes is, which tells clusters apart; nil where that
	// namespace is not read.
	home     *table
	origin   string // of the credentials, for people
	file     string // the kubeconfig; empty: the pod's service account
	written  os.FileInfo
	http     *http.Client
	lines    *lines
	metrics  *Metrics
	registry string
}

// The types that are read, and no others: client-go's own scheme knows every API group.
var (
	scheme         = newScheme()
	codecs         = serializer.NewCodecFactory(scheme)
	parameterCodec = runtime.NewParameterCodec(scheme)
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	// They fail only for types that contradict each other, which every test would show.
	_ = corev1.AddToScheme(s)
	_ = discoveryv1.AddToScheme(s)
	_ = metav1.AddMetaToScheme(s)
	return s
}

// load reads the kubeconfig, or the credentials of the pod.
func load(cfg Config) (*rest.Config, error) {
	if cfg.Kubeconfig != "" {
		rc, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: cfg.Kubeconfig},
			&clientcmd.ConfigOverrides{CurrentContext: cfg.Context},
		).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", cfg.Kubeconfig, err)
		}
		return rc, nil
	}
	rc, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("no kubeconfig is configured, and this is no pod: KUBERNETES_SERVICE_HOST is not set")
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no kubeconfig is configured, and the pod has no token (automountServiceAccountToken: true?): %w", err)
	}
	return rc, err
}

// connect prepares a connection that ends with ctx or close. It sends nothing.
func (r *Resolver) connect(ctx context.Context) (*connection, error) {
	c := &connection{
		origin: "the pod's service account", file: r.cfg.Kubeconfig, metrics: r.metrics, registry: r.name,
		lines: newLines(ctx),
	}
	if c.file != "" {
		c.origin = "kubeconfig " + c.file
		c.written, _ = os.Stat(c.file) // before it is read, which says what is wrong with it
	}
	rc, err := load(r.cfg)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	rc.UserAgent = "farcall"
	rc.QPS, rc.Burst = queries, burst
	rc.WarningHandler = rest.NoWarnings{}
	rc.AcceptContentTypes, rc.ContentType = runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON, runtime.ContentTypeProtobuf
	rc.NegotiatedSerializer = codecs.WithoutConversion()
	if c.http, err = httpClient(rc, c.lines); err != nil {
		return nil, fmt.Errorf("kubernetes: %s: %w", c.origin, err)
	}
	core, err := restClient(rc, c.http, "/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %s: %w", c.origin, err)
	}
	discovery, err := restClient(rc, c.http, "/apis", discoveryv1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %s: %w", c.origin, err)
	}
	namespaces := r.cfg.WatchNamespaces
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	if r.cfg.Regions {
		// First, so that each instance finds its node there: a node that comes later is looked for in
		// every EndpointSlice.
		c.tables = append(c.tables, &table{resource: "nodes", client: core, metadata: true,
			list: func() runtime.Object { return &metav1.PartialObjectMetadataList{} }})
	}
	services := func() runtime.Object { return &corev1.ServiceList{} }
	for _, ns := range namespaces {
		if ns == metav1.NamespaceAll || ns == metav1.NamespaceDefault {
			c.home = &table{resource: "services", namespace: metav1.NamespaceDefault, client: core, list: services}
		}
		c.tables = append(c.tables,
			&table{resource: "services", namespace: ns, client: core, list: services},
			&table{resource: "endpointslices", namespace: ns, client: discovery, list: func() runtime.Object { return &discoveryv1.EndpointSliceList{} }})
	}
	return c, nil
}

// rewritten reports whether the kubeconfig is another file than the one that was read.
func (c *connection) rewritten() bool {
	if c.file == "" {
		return false
	}
	is, err := os.Stat(c.file)
	return err == nil && (c.written == nil || !os.SameFile(is, c.written) ||
		is.Size() != c.written.Size() || !is.ModTime().Equal(c.written.ModTime()))
}

func restClient(rc *rest.Config, client *http.Client, apiPath string, gv schema.GroupVersion) (*rest.RESTClient, error) {
	own := rest.CopyConfig(rc)
	own.APIPath, own.GroupVersion = apiPath, &gv
	return rest.RESTClientForConfigAndClient(own, client)
}

// httpClient makes a client with client-go's authentication and with connections of its own:
// client-go shares connections between all clients of a process, and leaves them open.
func httpClient(rc *rest.Config, l *lines) (*http.Client, error) {
	if file := rc.BearerTokenFile; file != "" {
		// Unlike the default, this forgets a token that was refused, so that a new one in the file is
		// read at once. One that is not refused is read again every minute.
		rc.BearerToken, rc.BearerTokenFile = "", ""
		rc.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(file)))
	}
	tc, err := rc.TransportConfig()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := transport.TLSConfigFor(tc)
	if err != nil {
		return nil, err
	}
	proxy := rc.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	base := &http.Transport{
		Proxy:               proxy,
		DialContext:         l.dial,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	l.idle = base.CloseIdleConnections
	wrapped, err := transport.HTTPWrappersForConfig(tc, base)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: wrapped}, nil
}

// close ends every connection, also one that is being made.
func (c *connection) close() { c.lines.close() }

// lines are the open network connections of one connection. Safe for concurrent use.
type lines struct {
	ctx  context.Context // ends dialling; net/http itself dials on when nobody waits any more
	idle func()

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{}
}

func newLines(ctx context.Context) *lines {
	return &lines{ctx: ctx, idle: func() {}, open: map[net.Conn]struct{}{}}
}

// line is one of them, which leaves the list when it is closed.
type line struct {
	net.Conn
	l *lines
}

func (l line) Close() error {
	l.l.mu.Lock()
	delete(l.l.open, l.Conn)
	l.l.mu.Unlock()
	return l.Conn.Close()
}

func (l *lines) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	conn, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	l.open[conn] = struct{}{}
	return line{conn, l}, nil
}

func (l *lines) close() {
	l.idle()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for conn := range l.open {
		conn.Close()
	}
	clear(l.open)
}

// request begins a request for a table. client-go's own retries are off: they would hide what
// goes wrong, and wait unseen.
func (t *table) request(object string, opts *metav1.ListOptions) *rest.Request {
	req := t.client.Get().Resource(t.resource).VersionedParams(opts, parameterCodec).MaxRetries(0)
	if t.namespace != "" {
		req.Namespace(t.namespace)
	}
	if t.metadata {
		as := ";as=" + object + ";g=meta.k8s.io;v=v1"
		req.SetHeader("Accept", runtime.ContentTypeProtobuf+as+","+runtime.ContentTypeJSON+as)
	}
	return req
}

// list reads a table page by page and gives the revision as of which all of it holds. What it
// gave to each until an error came is of no use.
func (c *connection) list(ctx context.Context, t *table, each func(runtime.Object)) (revision string, err error) {
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		page, m, err := c.page(ctx, t, "list", opts, pageTimeout)
		if err != nil {
			return "", err
		}
		err = meta.EachListItem(page, func(o runtime.Object) error { each(o); return nil })
		if err != nil {
			return "", fmt.Errorf("kubernetes: list %s: %w", t, err)
		}
		if m.GetContinue() == "" {
			return m.GetResourceVersion(), nil
		}
		opts.Continue = m.GetContinue()
	}
}

// probe asks for one object and gives the revision as of which the answer holds, which is that
// of etcd: a list without a revision is a consistent read.
func (c *connection) probe(ctx context.Context, t *table) (revision string, err error) {
	_, m, err := c.page(ctx, t, "probe", metav1.ListOptions{Limit: 1}, probeTimeout)
	if err != nil {
		return "", err
	}
	return m.GetResourceVersion(), nil
}

// identify asks which cluster answers: for the uid of default/kubernetes, empty while that is not
// there.
func (c *connection) identify(ctx context.Context) (cluster string, err error) {
	only := metav1.ListOptions{FieldSelector: "metadata.name=" + home.name}
	page, _, err := c.page(ctx, c.home, "probe", only, probeTimeout)
	if err != nil {
		return "", err
	}
	err = meta.EachListItem(page, func(o runtime.Object) error {
		if s, ok := o.(*corev1.Service); ok {
			cluster = string(s.UID)
		}
		return nil
	})
	return cluster, err
}

func (c *connection) page(ctx context.Context, t *table, verb string, opts metav1.ListOptions, timeout time.Duration) (runtime.Object, metav1.ListInterface, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	page := t.list()
	err := t.request("PartialObjectMetadataList", &opts).Do(ctx).Into(page)
	var m metav1.ListInterface
	if err == nil {
		m, err = meta.ListAccessor(page)
	}
	if err == nil && m.GetResourceVersion() == "" {
		err = errors.New("the answer has no resource version: is this a Kubernetes API server?")
	}
	c.count(t, verb, err)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			err = silence(timeout)
		}
		return nil, nil, c.words("list", t, err)
	}
	return page, m, nil
}

// watch opens a watch from a revision on. It ends with ctx.
func (c *connection) watch(ctx context.Context, t *table, revision string, lasting time.Duration) (watch.Interface, error) {
	seconds := int64(lasting.Seconds())
	stream, err := t.request("PartialObjectMetadata", &metav1.ListOptions{
		Watch: true, ResourceVersion: revision, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	}).Watch(ctx)
	c.count(t, "watch", err)
	if err != nil {
		return nil, c.words("watch", t, err)
	}
	return stream, nil
}

func (c *connection) count(t *table, verb string, err error) {
	result := "ok"
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		result = "refused"
	} else if err != nil {
		result = "failed"
	}
	c.metrics.requests.WithLabelValues(c.registry, verb, t.resource, result).Inc()
}
