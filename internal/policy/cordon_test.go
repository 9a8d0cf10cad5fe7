package policy

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

func TestCordons(t *testing.T) {
	since, until := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		m              *policyv1.Cordon
		id, name, text string
	}{
		{&policyv1.Cordon{Cluster: "west"}, "*", "cluster west", ""},
		{&policyv1.Cordon{Cluster: "west", Reason: "disks"}, "*", "cluster west", "disks"},
		{
			&policyv1.Cordon{Cluster: "west", Service: "cart", Reason: "disks", Author: "ann", Since: timestamppb.New(since), Expires: timestamppb.New(until), Revision: 3},
			"default/cart", "service default/cart in west", "by ann since 2026-03-01T10:00:00Z until 2026-03-01T11:00:00Z: disks",
		},
		{&policyv1.Cordon{Cluster: "west", Namespace: "a/b", Service: "*"}, "a%2Fb/*", "service a/b/* in west", ""},
	} {
		got, err := CordonFromProto(c.m)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got.ID() != c.id || got.String() != c.name || got.Text() != c.text {
			t.Errorf("got %q, %q and %q, want %q, %q and %q", got.ID(), got, got.Text(), c.id, c.name, c.text)
		}
		if n, err := ParseCordonID(c.id); err != nil || n != got.Name {
			t.Errorf("%q reads back as %v, %v", c.id, n, err)
		}
		if again, err := CordonFromProto(got.Proto()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%v reads back as %v, %v", got, again, err)
		}
		if s := got.strategy(); s != (strategy.Cordon{Cluster: "west", Name: got.Name, Until: got.Expires, Text: c.text}) {
			t.Errorf("strategies are told %+v", s)
		}
	}
	for _, id := range []string{"", "cart", "default/", "/cart", "a/b/c", "*/", "%64efault/cart"} {
		if n, err := ParseCordonID(id); err == nil {
			t.Errorf("%q is taken as %v", id, n)
		}
	}
}

func TestMistakesInCordons(t *testing.T) {
	newer := &policyv1.Cordon{Cluster: "west"}
	newer.ProtoReflect().SetUnknown([]byte{0xf8, 0x3e, 0x01})
	for _, c := range []struct {
		m          *policyv1.Cordon
		path, says string
	}{
		{&policyv1.Cordon{}, "cluster", "empty"},
		{&policyv1.Cordon{Cluster: "West"}, "cluster", "lower-case"},
		{&policyv1.Cordon{Cluster: "west", Namespace: "shop"}, "namespace", "one service"},
		{&policyv1.Cordon{Cluster: "west", Service: "a\nb"}, "service", "control character"},
		{&policyv1.Cordon{Cluster: "west", Reason: "a\nb"}, "reason", "control character"},
		{&policyv1.Cordon{Cluster: "west", Reason: strings.Repeat("a", 2000)}, "reason", "longer than 1024"},
		{&policyv1.Cordon{Cluster: "west", Author: "\xff"}, "author", "UTF-8"},
		{&policyv1.Cordon{Cluster: "west", Expires: &timestamppb.Timestamp{Seconds: -1 << 60}}, "expires", "not a moment"},
		{newer, "", "does not know"},
	} {
		_, err := ReadCordon(c.m)
		var list Errors
		if !errors.Is(err, ErrNewer) || !errors.As(err, &list) || len(list) != 1 || list[0].Path != c.path || !strings.Contains(list[0].Text, c.says) {
			t.Errorf("%v: got %v, want that %s %s", c.m, err, c.path, c.says)
		}
	}
}

func TestCordonsOfAService(t *testing.T) {
	cart, order := catalog.Name{Namespace: "default", Service: "cart"}, catalog.Name{Namespace: "default", Service: "order"}
	s := NewSet(nil, []*Cordon{
		{Cluster: "west", Name: cart}, {Cluster: "us"}, {Cluster: "eu", Name: order},
		{Cluster: "us", Reason: "later", Revision: 2}, {Cluster: "us", Reason: "earlier", Revision: 1},
	}, 2)
	for _, c := range []struct {
		name catalog.Name
		want []strategy.Cordon
	}{
		{cart, []strategy.Cordon{{Cluster: "us", Text: "later"}, {Cluster: "west", Name: cart}}},
		{order, []strategy.Cordon{{Cluster: "us", Text: "later"}, {Cluster: "eu", Name: order}}},
		{catalog.Name{Namespace: "shop", Service: "cart"}, []strategy.Cordon{{Cluster: "us", Text: "later"}}},
	} {
		if got := s.CordonsOf(c.name); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.name, got, c.want)
		}
	}
	var names []string
	for _, c := range s.Cordons() {
		names = append(names, c.String())
	}
	if got := strings.Join(names, ", "); got != "service default/order in eu, cluster us, service default/cart in west" {
		t.Errorf("the cordons are %s", got)
	}
	var none *Set
	if none.CordonsOf(cart) != nil || none.Cordons() != nil {
		t.Error("a set of nothing has cordons")
	}
}

func TestACordonOfAStrangerIsWarnedOf(t *testing.T) {
	c := &Cordon{Cluster: "wset"}
	if w := c.Warnings([]string{"east", "west"}); len(w) != 1 || !strings.Contains(w[0], `did you mean "west"`) {
		t.Errorf("got %v", w)
	}
	if w := c.Warnings([]string{"wset"}); w != nil {
		t.Errorf("of one that is known: %v", w)
	}
}

func FuzzCordonFromProto(f *testing.F) {
	for _, m := range []*policyv1.Cordon{
		{Cluster: "west"}, {Cluster: "west", Service: "cart", Reason: "disks", Since: timestamppb.New(time.Unix(1, 2)), Revision: 7}, {Namespace: "x"},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &policyv1.Cordon{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		c, err := CordonFromProto(m)
		if err != nil {
			return
		}
		if again, err := CordonFromProto(c.Proto()); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v reads back as %+v, %v", c, again, err)
		}
		if n, err := ParseCordonID(c.ID()); err != nil || n != c.Name {
			t.Errorf("%q reads as %v, %v", c.ID(), n, err)
		}
	})
}
