package intake

import (
	"testing"
	"testing/synctest"
	"time"
)

// A revision that moved by itself is no Change, and is in the status all the same.
func TestStatusIsOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: s})
		u := update("cart: 1")
		u.Revision = "41"
		s.publish(u)
		told := b.count()
		<-time.NewTimer(time.Second).C
		u.Revision = "42"
		s.publish(u)
		if n := b.count(); n != told {
			t.Errorf("%d changes were told of a revision", n-told)
		}
		if st := b.Status()[0]; st.Revision != "42" || time.Since(st.LastSuccess) != 0 || st.Instances != 1 {
			t.Errorf("the status is %+v", st)
		}
		b.add(t, "file", newSaid())
		if n := len(b.Status()); n != 2 {
			t.Errorf("the status has %d registries, want 2", n)
		}
	})
}
