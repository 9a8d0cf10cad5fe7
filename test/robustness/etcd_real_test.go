//go:build real && linux

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// askEtcd asks one member, past every link, by etcd's JSON gateway: bytes are base64, 64-bit numbers
// are texts.
func askEtcd(ctx context.Context, endpoint, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+"/v3/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd %s: %s: %s", path, resp.Status, text)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	return err
}

// memberStatus is what a member says of itself.
type memberStatus struct {
	Header struct {
		MemberID string `json:"member_id"`
	}
	Leader   string
	RaftTerm string
}

func (w *world) memberStatus(ctx context.Context, n int) (memberStatus, error) {
	var out memberStatus
	err := askEtcd(ctx, w.etcd.Endpoints[n], "maintenance/status", struct{}{}, &out)
	return out, err
}

// etcdLeader gives the number of the leading member, and its status. It waits for an election.
func (w *world) etcdLeader(ctx context.Context) (int, memberStatus, error) {
	var last error
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		for n := range w.etcd.Members {
			s, err := w.memberStatus(ctx, n)
			if err == nil && s.Leader == s.Header.MemberID {
				return n, s, nil
			}
			last = errors.Join(err, fmt.Errorf("member %d says that %q leads", n, s.Leader))
		}
		select {
		case <-ctx.Done():
			return 0, memberStatus{}, ctx.Err()
		case <-tick.C:
		}
	}
	return 0, memberStatus{}, fmt.Errorf("etcd has no leader: %w", last)
}

// otherLeader says who leads now, "" where that is still the one of before in the term of before.
func (w *world) otherLeader(ctx context.Context, before memberStatus) string {
	for n := range w.etcd.Members {
		s, err := w.memberStatus(ctx, n)
		if err == nil && s.Leader != "" && s.Leader != "0" && s.RaftTerm != before.RaftTerm {
			return fmt.Sprintf("term %s, led by %s (before: %s, %s)", s.RaftTerm, s.Leader, before.RaftTerm, before.Leader)
		}
	}
	return ""
}

// refusesWrites says why a write is not taken, "" where it is.
func (w *world) refusesWrites(ctx context.Context) string {
	var err error
	for _, e := range w.etcd.Endpoints {
		err = askEtcd(ctx, e, "kv/put", map[string][]byte{"key": []byte("/probe"), "value": []byte("x")}, nil)
		if err == nil {
			return ""
		}
	}
	return fmt.Sprintf("writes are refused: %.120v", err)
}

// etcdValue gives a key's value and the store's revision.
func (w *world) etcdValue(ctx context.Context, key string) (value string, revision int64, err error) {
	var out struct {
		Header struct{ Revision string }
		Kvs    []struct{ Value []byte }
	}
	// Somebody stalls its disk, perhaps, or the machine has much else to do.
	for deadline := time.Now().Add(time.Minute); ; {
		for _, e := range w.etcd.Endpoints {
			if err = askEtcd(ctx, e, "kv/range", map[string][]byte{"key": []byte(key)}, &out); err == nil {
				break
			}
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return "", 0, err
		}
	}
	if len(out.Kvs) > 0 {
		value = string(out.Kvs[0].Value)
	}
	revision, _ = strconv.ParseInt(out.Header.Revision, 10, 64)
	return value, revision, nil
}
