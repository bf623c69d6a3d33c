package bench

import (
	"os"
	"testing"

	"github.com/temporal-outbox/relay/internal/lab/bench/sink"
)

func TestMain(m *testing.M) {
	sink.RunIfChild()
	os.Exit(m.Run())
}
