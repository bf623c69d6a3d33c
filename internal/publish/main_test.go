package publish_test

import (
	"testing"

	"go.uber.org/goleak"
)

// The SDK keeps idle connections; only what else is left over is a leak.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}
