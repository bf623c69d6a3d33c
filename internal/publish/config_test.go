package publish_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
)

func TestNew_ReportsAllMistakesAtOnce(t *testing.T) {
	arn, fifo := "arn:aws:sns:eu-west-1:123456789012:orders", "arn:aws-cn:sns:cn-north-1:1:a.fifo"
	wrong := map[string]publish.Destination{
		"a-nothing":     {},
		"b-both":        {SNS: "x", SQS: "y"},
		"c-arn":         {SNS: "arn:aws:sqs:eu-west-1:1:queue"},
		"d-short-arn":   {SNS: "arn:aws:sns:eu-west-1:orders"},
		"e-topic":       {SNS: "with space"},
		"f-queue":       {SQS: strings.Repeat("q", 81)},
		"g-queue-arn":   {SQS: "arn:aws:sqs:eu-west-1:1:queue"},
		"h-url":         {SQS: "https://sqs.eu-west-1.amazonaws.com"},
		"i-fair-fifo":   {SQS: "x.fifo", Fair: true},
		"j-subscriber":  {SNS: arn + ":6b0e71bd-7e97-4d97-80ce-4a0994e55286"},
		"":              {SNS: "x"},
		"k-fifo-middle": {SQS: "x.fifo.y"},
	}
	topics := map[string]publish.Destination{"fine": {SNS: arn}, "fine2": {SNS: fifo}, "fine3": {SQS: strings.Repeat("q", 80), Fair: true}}
	for name, d := range wrong {
		topics[name] = d
	}
	_, err := publish.New(publish.Config{AWS: aws.Config{Region: "eu-west-1"}, Topics: topics, Attempts: -1, RequestTimeout: -1})
	require.Error(t, err)
	for name := range wrong {
		assert.ErrorContains(t, err, `topic "`+name+`"`)
	}
	assert.NotContains(t, err.Error(), "fine")
	assert.ErrorContains(t, err, "Attempts")
	assert.ErrorContains(t, err, "RequestTimeout")
	assert.Equal(t, len(wrong)+2, strings.Count(err.Error(), "\n")+1, err)
}

func TestDestination_IsNamedAsConfiguredWithoutSecrets(t *testing.T) {
	p, err := publish.New(publish.Config{AWS: aws.Config{Region: "eu-west-1"}, Topics: map[string]publish.Destination{
		"a": {SNS: "arn:aws:sns:eu-west-1:1:a"},
		"b": {SQS: "b.fifo"},
		"c": {SQS: "https://me:hidden@queues.example/1/c?token=hidden"},
	}})
	require.NoError(t, err)
	assert.Equal(t, "SNS topic arn:aws:sns:eu-west-1:1:a", p.Destination("a"))
	assert.Equal(t, "SQS queue b.fifo", p.Destination("b"))
	assert.Equal(t, "SQS queue https://queues.example/1/c", p.Destination("c"))
	assert.Empty(t, p.Destination("unknown"))
}

func TestRegion_MayComeFromTheDestination(t *testing.T) {
	p, err := publish.New(publish.Config{Topics: map[string]publish.Destination{
		"b": {SQS: "https://sqs.cn-north-1.amazonaws.com.cn/1/b"},
		"a": {SNS: "arn:aws:sns:eu-west-1:1:a"},
		"c": {SQS: "https://eu-west-3.queue.amazonaws.com/1/c.fifo"},
	}})
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b", "c"}, p.Topics())

	_, err = publish.New(publish.Config{Topics: map[string]publish.Destination{"a": {SQS: "http://localhost:4566/1/a"}}})
	require.ErrorContains(t, err, "AWS_REGION")
}
