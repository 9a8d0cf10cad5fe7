package daemon

import (
	"math"
	"os"
	"runtime/debug"
)

// heapRoom is what an agent's heap may grow by, in bytes, between two runs of the garbage collector, besides
// what Go lets it grow by anyhow, which is as much as it holds. An agent holds a few MiB, so that under
// load the collector would run dozens of times a second and take a fifth of the processor time of calls.
const heapRoom = 32 << 20

// giveHeapRoom gives memory that makes the room as long as it is kept. It is never touched, so that nothing
// is behind it, and holds no pointers, so that it is not scanned; but it counts as held when Go sets the size
// at which the collector runs next. It is nil where somebody decided about the collector: who sets GOGC or
// GOMEMLIMIT counts in bytes that are there.
func giveHeapRoom() []byte {
	if os.Getenv("GOGC") != "" || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return nil
	}
	return make([]byte, heapRoom)
}
