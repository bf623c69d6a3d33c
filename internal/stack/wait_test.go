package stack

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A connection that is being made at the limit times out by a clock of its own, maybe a
// moment before the context ends.
func TestReady_SaysWhyThereWasNoAnswerBeforeTheLimit(t *testing.T) {
	tries := 0
	err := ready(t.Context(), nil, 100*time.Millisecond, func(ctx context.Context) error {
		if tries++; tries == 1 {
			return errors.New("refused")
		}
		deadline, _ := ctx.Deadline()
		for time.Now().Before(deadline) && ctx.Err() == nil {
		}
		return errors.New("i/o timeout")
	})
	require.ErrorContains(t, err, "refused")
	require.NotContains(t, err.Error(), "i/o timeout")
}
