// Package testenv gives tests the real parts that they run against: a fresh,
// migrated database each, the SNS/SQS endpoint, a Temporal client. It exists so
// that no test package starts servers or invents its own clean-up, and so that
// all of them skip for the same reason, in the same words.
//
// The parts come from the environment, as `go run ./localstack exec` sets it. A
// test whose part is missing is skipped on a developer's machine and fails where
// CI=true, because there a skipped test would pass for a passed one.
package testenv

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// need is the variable's value; without one the test ends here.
func need(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value != "" {
		return value
	}
	missing(t, "%s is not set: run `make test`, or `go run ./localstack exec -- go test ./...`", name)
	return ""
}

// Missing ends a test that lacks a part of its environment: it fails in CI and is skipped
// elsewhere.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	missing(t, format, args...)
}

// missing ends a test for want of a part.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if ci, _ := strconv.ParseBool(os.Getenv("CI")); ci {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Eventually calls cond until it returns nil, and fails the test with its last
// error when timeout passes first. Unlike testify's function of the same name it
// calls cond in the test's own goroutine, where t.FailNow may be used, and says
// why the last attempt failed.
func Eventually(t testing.TB, timeout time.Duration, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", timeout, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
