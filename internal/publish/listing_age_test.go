package publish

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/stretchr/testify/require"
)

func TestListing_IsReadAgainOnceItIsAMinuteOld(t *testing.T) {
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
		time.Sleep(listingAge - time.Second)
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
			ctx, cancel := context.WithTimeout(t.Context(), firstTimeout)
			_, err := l.find(ctx, "1000", "r")
			cancel()
			found = err == nil
			require.LessOrEqual(t, int(pages.Load()), pageBurst+int(time.Since(began)/pageEvery)+1)
		}
		require.InDelta(t, 1000*pageEvery, time.Since(began), float64(2*time.Second))
	})
}
