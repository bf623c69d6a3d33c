package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// leastPayloads is the smallest payload budget.
	leastPayloads = 1 << 20
	// memoryBeside is the memory that a worker may have beside its payloads before it collects garbage
	// more often than its GOGC says. A worker with payloads of 512 bytes has less.
	memoryBeside = 96 << 20
	// memoryEvery is how often the runtime's limit is set to what is alive.
	memoryEvery = time.Second
)

// bytesOf reads a size with its unit, such as 24MiB.
func bytesOf(text string) (int64, error) {
	for unit, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		number, is := strings.CutSuffix(text, unit)
		if !is {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/bytes/8 {
			return 0, fmt.Errorf("%q is no size", text)
		}
		return n * bytes, nil
	}
	return 0, fmt.Errorf("%q has no unit", text)
}

// limitMemory sets the soft limit of Go's runtime until ctx ends, unless GOMEMLIMIT is set. The garbage
// collector lets the heap grow to five times of what is alive, because small events leave much garbage
// and little else. With large payloads that would be hundreds of MiB. Beyond the limit it collects
// earlier.
func limitMemory(ctx context.Context, payloads int64, logger *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	container, err := memlimit.FromCgroup()
	switch {
	case err == nil:
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		container = math.MaxInt64
	default:
		logger.Warn("the container's memory limit cannot be read, so the worker may exceed it: set GOMEMLIMIT to nine tenths of it", "error", err)
		container = math.MaxInt64
	}
	first := memoryLimit(container, payloads, 0)
	debug.SetMemoryLimit(first)
	logger.Info("memory", "payloads", payloads, "limit", first, "container", container)
	go func() {
		ticker := time.NewTicker(memoryEvery)
		defer ticker.Stop()
		alive := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		for last := first; ; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			metrics.Read(alive)
			// To set it stops all goroutines for a moment, so small differences do not count.
			if limit := memoryLimit(container, payloads, alive[0].Value.Uint64()); limit > last || limit < last-last/10 {
				debug.SetMemoryLimit(limit)
				last = limit
			}
		}
	}()
}

// memoryLimit is the limit of the runtime's memory, in bytes: enough for the payloads and what is beside
// them, and never so little that the garbage collector would run all the time for what is alive. It
// stays below the container's limit, because not all memory is the runtime's.
func memoryLimit(container uint64, payloads int64, alive uint64) int64 {
	const most = math.MaxInt64 / 4
	limit := max(memoryBeside+2*uint64(max(0, payloads)), 3*min(alive, most/3))
	return int64(min(limit, container/10*9, most))
}
