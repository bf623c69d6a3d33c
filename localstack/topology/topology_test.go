package topology_test

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/localstack/topology"
)

func TestLocal_HasEveryDestinationOfTheLocalConfiguration(t *testing.T) {
	text, err := os.ReadFile("../outbox.yaml")
	require.NoError(t, err)
	var config struct {
		Topics map[string]struct {
			SNS, SQS string
			Fair     bool
		}
	}
	require.NoError(t, yaml.UnmarshalWithOptions(text, &config, yaml.Strict()))
	require.NotEmpty(t, config.Topics)

	topics, queues := map[string]bool{}, map[string]bool{}
	local := topology.Local()
	for _, topic := range local.Topics {
		topics[topic.Name] = true
	}
	for _, queue := range local.Queues {
		queues[queue.Name] = true
	}
	for name, to := range config.Topics {
		assert.True(t, topics[to.SNS] || queues[to.SQS], "topic %s goes to %+v", name, to)
	}
}

func TestParse_ReportsEveryMistake(t *testing.T) {
	_, err := topology.Parse([]byte(`{
		"topics": [{"name": "plain"}],
		"queues": [
			{"name": "q", "deadLetters": {"queue": "gone", "maxReceives": 1}},
			{"name": "f.fifo", "deadLetters": {"queue": "q", "maxReceives": 1}},
			{"name": "z", "deadLetters": {"queue": "q", "maxReceives": 0}},
			{"name": "q"}
		],
		"subscriptions": [
			{"topic": "plain", "queue": "f.fifo"},
			{"topic": "nowhere", "queue": "q"}
		]}`))
	for _, want := range []string{
		`"gone" is not described`, "must be FIFO exactly if", "at least 1",
		"used twice", "needs a FIFO topic", "to nowhere: topic or queue is not described",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = topology.Parse([]byte(`{"ques": []}`))
	require.ErrorContains(t, err, "ques")
}

func TestApply_TwiceChangesNothing(t *testing.T) {
	cfg := endpoint(t)
	top := topology.Local().WithPrefix(prefix())
	first := apply(t, cfg, top)
	assert.Len(t, first.TopicARNs, len(top.Topics))
	assert.Len(t, first.QueueURLs, len(top.Queues))
	assert.NotEmpty(t, first.Changes)

	second := apply(t, cfg, top)
	assert.Empty(t, second.Changes)
	assert.Equal(t, first.TopicARNs, second.TopicARNs)
	assert.Equal(t, first.QueueURLs, second.QueueURLs)
}

func TestApply_CorrectsEachDifference(t *testing.T) {
	cfg := endpoint(t)
	top := topology.Local().WithPrefix(prefix())
	first := apply(t, cfg, top)

	client := sqs.NewFromConfig(cfg)
	for _, queue := range top.Queues {
		if queue.DeadLetters == nil {
			continue
		}
		_, err := client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{
			QueueUrl: aws.String(first.QueueURLs[queue.Name]),
			Attributes: map[string]string{
				"RedrivePolicy": `{"deadLetterTargetArn":"` + first.QueueARNs[queue.DeadLetters.Queue] + `","maxReceiveCount":9}`,
			},
		})
		require.NoError(t, err)
	}
	top.Subscriptions[1].Filter = map[string][]string{"event_type": {"Other"}}
	changes := strings.Join(apply(t, cfg, top).Changes, "\n")
	assert.Equal(t, 3, strings.Count(changes, "RedrivePolicy set"), changes)
	assert.Equal(t, 1, strings.Count(changes, "FilterPolicy set"), changes)

	top.Subscriptions[1].Filter = nil
	assert.Len(t, apply(t, cfg, top).Changes, 1, "a filter can be lifted")
	assert.Empty(t, apply(t, cfg, top).Changes)
}

// prefix is short: a queue's name has at most 80 characters.
func prefix() string { return "t" + strings.ToLower(rand.Text()[:10]) + "-" }

// apply applies top and removes all of it when the test ends.
func apply(t *testing.T, cfg aws.Config, top topology.Topology) *topology.Resources {
	t.Helper()
	res, err := top.Apply(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, arn := range res.TopicARNs {
			_, _ = sns.NewFromConfig(cfg).DeleteTopic(ctx, &sns.DeleteTopicInput{TopicArn: &arn})
		}
		for _, url := range res.QueueURLs {
			_, _ = sqs.NewFromConfig(cfg).DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &url})
		}
	})
	return res
}
