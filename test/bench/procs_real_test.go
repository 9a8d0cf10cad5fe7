//go:build real

package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one whose use of the machine counts.
type process struct {
	name string
	pid  int
	// objects is a URL that says how many objects it has allocated, by itself or as the runtime's
	// metric among others; empty where nothing tells.
	objects string
}

// procs are the processes of one arm.
type procs struct {
	list   []process
	client *http.Client
}

// cpu gives what each of them has had of the processors since it began.
func (p *procs) cpu() map[string]time.Duration {
	out := map[string]time.Duration{}
	for _, one := range p.list {
		out[one.name] = cpuOf(one.pid)
	}
	return out
}

func (p *procs) since(before map[string]time.Duration) map[string]time.Duration {
	out := p.cpu()
	for name := range out {
		out[name] -= before[name]
	}
	return out
}

// cpuOf reads /proc/PID/stat: utime and stime, in hundredths of a second. It is 0 for what has gone, which
// the calls that fail then tell.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The fields follow the name, which is in brackets and may hold anything.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// ownCPU is what this process, the load generator, has had.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// generator is the name that the load generator goes by.
const generator = "generator"

// allocated gives how many objects each process has allocated so far, as far as they tell.
func (p *procs) allocated() (map[string]float64, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	out := map[string]float64{generator: float64(m.Mallocs)}
	for _, one := range p.list {
		if one.objects == "" {
			continue
		}
		n, err := objects(p.client, one.objects)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		out[one.name] = n
	}
	return out, nil
}

func objects(c *http.Client, url string) (float64, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if strings.HasSuffix(url, "/mallocs") {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(string(b), 64)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("%s does not tell: %v", url, lines.Err())
}

// memory gives a line of /proc/PID/status, in bytes: VmRSS, or VmHWM, which is the most it ever was.
func memory(pid int, key string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, key)
}

// forgetPeak makes VmHWM begin anew.
func forgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
