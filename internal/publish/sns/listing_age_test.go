package sns

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func TestListing_IsReadAgainOnceItIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topics, calls := []string{"a", "b"}, 0
		l := &listing{timeout: time.Second, now: time.Now, read: func(_ context.Context, token *string) (*sns.ListTopicsOutput, error) {
			calls++
			if token == nil {
				return &sns.ListTopicsOutput{NextToken: aws.String("more")}, nil
			}
			out := &sns.ListTopicsOutput{}
			for _, name := range topics {
				out.Topics = append(out.Topics, types.Topic{TopicArn: aws.String("arn:aws:sns:r:1:" + name)})
			}
			return out, nil
		}}
		_, err := l.find(t.Context(), "c", "r")
		require.ErrorContains(t, err, "none of the 2 topics")
		topics = []string{"b", "c"}
		time.Sleep(timing.ListingAge - time.Second)
		_, err = l.find(t.Context(), "c", "r")
		require.ErrorContains(t, err, "none of the 2 topics")
		require.Equal(t, 2, calls)
		time.Sleep(2 * time.Second)
		arn, err := l.find(t.Context(), "c", "r")
		require.NoError(t, err, "a topic that was added is noticed")
		require.Equal(t, "arn:aws:sns:r:1:c", arn)
		_, err = l.find(t.Context(), "a", "r")
		require.ErrorContains(t, err, "none of the 2 topics", "and so is one that was deleted")
		require.Equal(t, 4, calls)
	})
}

// A recovery tries once a minute. 5,000 topics are 50 pages, and one attempt reads 20 of
// them at most.
func TestListing_IsReadOnOverTheLongestPauseBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, firsts := 0, 0
		l := &listing{timeout: time.Second, now: time.Now, read: func(_ context.Context, token *string) (*sns.ListTopicsOutput, error) {
			time.Sleep(100 * time.Millisecond)
			page := 0
			if token == nil {
				firsts++
			} else {
				page, _ = strconv.Atoi(*token)
			}
			calls++
			out := &sns.ListTopicsOutput{}
			for i := range 100 {
				out.Topics = append(out.Topics, types.Topic{TopicArn: aws.String(fmt.Sprintf("arn:aws:sns:r:1:topic-%d", 100*page+i))})
			}
			if page < 49 {
				out.NextToken = aws.String(strconv.Itoa(page + 1))
			}
			return out, nil
		}}
		attempt := func(name string) error {
			ctx, cancel := context.WithTimeout(t.Context(), destination.LookUpTimeout)
			defer cancel()
			_, err := l.find(ctx, name, "r")
			return err
		}
		attempts := 0
		for err := error(nil); err == nil || awsapi.Error(err).Code == relay.CodeListing; attempts++ {
			err = attempt("misspelt")
			time.Sleep(timing.RecoveryPauseMost)
		}
		require.LessOrEqual(t, attempts, 3)
		require.Equal(t, 50, calls, "each attempt goes on where the one before stopped")
		require.ErrorContains(t, attempt("misspelt"), "none of the 5,000 topics")
		require.Equal(t, 1, firsts, "the attempt after the listing is complete is answered from it")
		for range 30 {
			_ = attempt("misspelt")
			time.Sleep(timing.RecoveryPauseMost)
		}
		require.LessOrEqual(t, calls, 50*30/2, "and so are most of those that follow")
	})
}

// Every page costs a call of an account that others share.
func TestListing_ReadsAtMostFivePagesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pages atomic.Int64
		l := &listing{timeout: time.Second, now: time.Now, read: func(context.Context, *string) (*sns.ListTopicsOutput, error) {
			n := pages.Add(1)
			out := &sns.ListTopicsOutput{Topics: []types.Topic{{TopicArn: aws.String(fmt.Sprintf("arn:aws:sns:r:1:%d", n))}}}
			if n < 1000 {
				out.NextToken = aws.String("more")
			}
			return out, nil
		}}
		began := time.Now()
		for found := false; !found; {
			ctx, cancel := context.WithTimeout(t.Context(), destination.LookUpTimeout)
			_, err := l.find(ctx, "1000", "r")
			cancel()
			found = err == nil
			require.LessOrEqual(t, int(pages.Load()), pageBurst+int(time.Since(began)/pageEvery)+1)
		}
		require.InDelta(t, 1000*pageEvery, time.Since(began), float64(2*time.Second))
	})
}
