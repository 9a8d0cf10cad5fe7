// Package wire says how a call stands on Dapr's internal wire (dapr.proto.internals.v1): the
// messages of CallLocal and CallLocalStream, their order, and what agents add in metadata.
//
// It opens no connection and runs no goroutines; what it reads it was given, and it takes no
// byte of it on trust.
package wire

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/farcall/farcall/agent/invoke"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// ChunkSize is how much of a streamed body goes into one message. daprd sends 2 KiB and takes
// anything below 4 MiB.
const ChunkSize = invoke.ChunkSize

const contentLength = "content-length"

// FormatTarget writes an identity for the metadata key farcall-target:
// cluster/namespace/service/instance, each part path-escaped.
func FormatTarget(id catalog.ID) string {
	return url.PathEscape(id.Cluster) + "/" + url.PathEscape(id.Namespace) + "/" +
		url.PathEscape(id.Service) + "/" + url.PathEscape(id.Instance)
}

// ParseTarget is the inverse of FormatTarget.
func ParseTarget(s string) (catalog.ID, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return catalog.ID{}, fmt.Errorf("%s %.100q: want cluster/namespace/service/instance", invoke.TargetKey, s)
	}
	for i, p := range parts {
		u, err := url.PathUnescape(p)
		if err != nil {
			return catalog.ID{}, fmt.Errorf("%s %.100q: %w", invoke.TargetKey, s, err)
		}
		parts[i] = u
	}
	id := catalog.ID{
		Cluster:  parts[0],
		Name:     catalog.Name{Namespace: parts[1], Service: parts[2]},
		Instance: parts[3],
	}
	if id.Cluster == "" || id.Instance == "" || !utf8.ValidString(id.Cluster) || !utf8.ValidString(id.Instance) {
		return catalog.ID{}, fmt.Errorf("%s %.100q: cluster or instance is empty or not UTF-8", invoke.TargetKey, s)
	}
	if err := id.Name.Check(); err != nil {
		return catalog.ID{}, fmt.Errorf("%s %.100q: %w", invoke.TargetKey, s, err)
	}
	return id, nil
}

// metadataFrom writes headers as the wire has them, with room for extra further keys. The wire
// holds UTF-8 only; a value that is none (HTTP allows Latin-1) has its other bytes replaced.
func metadataFrom(h invoke.Header, extra int) map[string]*internalsv1.ListStringValue {
	m := make(map[string]*internalsv1.ListStringValue, len(h)+extra)
	// One allocation for all values instead of one each.
	lists := make([]internalsv1.ListStringValue, len(h))
	i := 0
	for k, values := range h {
		for j, v := range values {
			if !utf8.ValidString(v) {
				values = append([]string(nil), values...)
				for ; j < len(values); j++ {
					values[j] = validUTF8(values[j])
				}
				break
			}
		}
		lists[i].Values = values
		m[validUTF8(k)] = &lists[i]
		i++
	}
	return m
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func headerFrom(m map[string]*internalsv1.ListStringValue) invoke.Header {
	h := make(invoke.Header, len(m))
	for k, v := range m {
		h[k] = v.GetValues()
	}
	return h
}

func one(v string) *internalsv1.ListStringValue {
	return &internalsv1.ListStringValue{Values: []string{v}}
}

// sequence counts the payloads of one direction: from 0, one more each.
type sequence uint64

func (s *sequence) take(seq uint64) error {
	if seq != uint64(*s) {
		return invoke.Invalid("invalid sequence number received: %d (expected: %d)", seq, uint64(*s))
	}
	*s++
	return nil
}

// Printable gives s as it may stand in gRPC metadata: itself where it is printable ASCII, which
// nearly all names are, else path-escaped.
func Printable(s string) string {
	if invoke.Printable(s) {
		return s
	}
	return url.PathEscape(s)
}
