package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// counts is what a worker has counted since it started, of what no history shows.
type counts struct {
	heartbeats int // sent to Temporal; most of those that activities record are held back by the SDK
	requests   int // to destinations
}

func (c counts) since(before counts) counts {
	return counts{heartbeats: c.heartbeats - before.heartbeats, requests: c.requests - before.requests}
}

// The worker's counts, by their kind.
var (
	temporalRequests    = regexp.MustCompile(`(?m)^temporal_request_total\{[^}]*operation="(\w+)"[^}]*\} (\S+)$`)
	destinationRequests = regexp.MustCompile(`(?m)^outbox_requests_total\{[^}]*outcome="(\w+)"[^}]*\} (\S+)$`)
)

// readCounts reads the metrics that a worker serves at an address.
func readCounts(ctx context.Context, address string) (counts, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return counts{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return counts{}, fmt.Errorf("read the worker's metrics: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return counts{}, fmt.Errorf("read the worker's metrics: %w", err)
	}
	return countsOf(string(text))
}

func countsOf(metrics string) (c counts, err error) {
	temporal := temporalRequests.FindAllStringSubmatch(metrics, -1)
	if len(temporal) == 0 {
		return c, errors.New("the worker's metrics do not count its requests to Temporal")
	}
	temporal = slices.DeleteFunc(temporal, func(found []string) bool { return found[1] != "RecordActivityTaskHeartbeat" })
	c.heartbeats, err = sumOf(temporal)
	if err == nil {
		c.requests, err = sumOf(destinationRequests.FindAllStringSubmatch(metrics, -1))
	}
	return c, err
}

// sumOf adds up the numbers that a pattern has found as its second group.
func sumOf(found [][]string) (int, error) {
	var sum float64
	for _, f := range found {
		n, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return 0, fmt.Errorf("read the worker's metrics: %w", err)
		}
		sum += n
	}
	return int(sum), nil
}

// freeAddress is an address on this machine on which no process listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // local, and closed at once
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
