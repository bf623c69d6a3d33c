package service

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnreachable_AtTheStartWaitsForNoDestinationThatHangs(t *testing.T) {
	topics := make([]string, 10*lookAtOnce)
	for i := range topics {
		topics[i] = fmt.Sprint("topic-", i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs := errors.New("no answer")
	var asked atomic.Int32
	bad := unreachable(ctx, topics, allLookedUp, func(ctx context.Context, _ string) error {
		if int(asked.Add(1)) == len(topics) {
			cancel() // each is asked while all others hang
		}
		<-ctx.Done()
		return hangs
	})
	require.Len(t, bad, len(topics))
}
