package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// requestsSent is the worker's count of one kind of request to Temporal.
var requestsSent = regexp.MustCompile(`(?m)^temporal_request_total\{[^}]*operation="(\w+)"[^}]*\} (\S+)$`)

// heartbeats is how many heartbeats a worker has sent to Temporal since it started. No
// history shows them, and most of those that activities record are held back by the SDK.
func heartbeats(ctx context.Context, address string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("read the worker's metrics: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("read the worker's metrics: %w", err)
	}
	return countHeartbeats(string(text))
}

func countHeartbeats(metrics string) (int, error) {
	found := requestsSent.FindAllStringSubmatch(metrics, -1)
	if len(found) == 0 {
		return 0, errors.New("the worker's metrics do not count its requests to Temporal")
	}
	var sent float64
	for _, f := range found {
		if f[1] == "RecordActivityTaskHeartbeat" {
			n, err := strconv.ParseFloat(f[2], 64)
			if err != nil {
				return 0, fmt.Errorf("read the worker's metrics: %w", err)
			}
			sent += n
		}
	}
	return int(sent), nil
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
