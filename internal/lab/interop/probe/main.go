// Command probe asks an SNS/SQS endpoint how it treats the cases that a publisher
// depends on, and prints one Markdown row for each answer.
//
// Emulators differ from AWS and from each other exactly there: at limits, in
// error codes, in what a batch does with one bad entry. The table in
// localstack/README.md is made of its output, so that it can be made again when
// an emulator changes.
//
//	go run ./localstack exec -- go run ./internal/lab/interop/probe
//	go run ./internal/lab/interop -- go run ./internal/lab/interop/probe
//
// With -window it also waits out the five minutes of deduplication. It is not a
// test: it always ends with status 0 unless the endpoint cannot be reached.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// lab is what probes work with. Its helpers panic on an unexpected error, which
// run turns into the probe's answer.
type lab struct {
	context.Context
	sns *sns.Client
	sqs *sqs.Client
}

type probe struct {
	name string
	run  func(*lab) string
}

func main() {
	window := flag.Bool("window", false, "also wait out the five-minute deduplication window")
	flag.Parse()
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRetryMaxAttempts(1))
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	l := &lab{Context: ctx, sns: sns.NewFromConfig(cfg), sqs: sqs.NewFromConfig(cfg)}
	if _, err := l.sqs.ListQueues(ctx, &sqs.ListQueuesInput{}); err != nil {
		fmt.Fprintln(os.Stderr, "probe: reach the endpoint:", err)
		os.Exit(1)
	}
	probes := append(sqsProbes(), snsProbes()...)
	if *window {
		probes = append(probes, windowProbes()...)
	}
	for _, p := range probes {
		fmt.Printf("| %s | %s |\n", p.name, strings.ReplaceAll(l.try(p), "|", `\|`))
	}
}

func (l *lab) try(p probe) (answer string) {
	defer func() {
		if r := recover(); r != nil {
			answer = fmt.Sprintf("probe stopped: %v", r)
		}
	}()
	return p.run(l)
}

// verdict is "accepted" or the error's code, HTTP status and text.
func verdict(err error) string {
	if err == nil {
		return "accepted"
	}
	text := err.Error()
	if api := smithy.APIError(nil); errors.As(err, &api) {
		text = fmt.Sprintf("`%s` (%s)", api.ErrorCode(), clip(api.ErrorMessage()))
	}
	if resp := (*smithyhttp.ResponseError)(nil); errors.As(err, &resp) {
		text = fmt.Sprintf("%d %s", resp.HTTPStatusCode(), text)
	}
	return text
}

func clip(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > 90 {
		return text[:90] + "…"
	}
	return text
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(verdict(err))
	}
	return value
}

func (l *lab) queue(suffix string, attributes map[string]string) string {
	name := "probe-" + strings.ToLower(rand.Text()[:10]) + suffix
	all := map[string]string{}
	if suffix != "" {
		all["FifoQueue"] = "true"
	}
	for k, v := range attributes {
		all[k] = v
	}
	return aws.ToString(must(l.sqs.CreateQueue(l, &sqs.CreateQueueInput{QueueName: &name, Attributes: all})).QueueUrl)
}

func (l *lab) queueARN(url string) string { return l.queueAttribute(url, "QueueArn") }

func (l *lab) queueAttribute(url, name string) string {
	return must(l.sqs.GetQueueAttributes(l, &sqs.GetQueueAttributesInput{
		QueueUrl: &url, AttributeNames: []sqstypes.QueueAttributeName{"All"},
	})).Attributes[name]
}

// topic makes a topic with one subscribed queue.
func (l *lab) topic(suffix string, subscription map[string]string) (arn, queue string) {
	name := "probe-" + strings.ToLower(rand.Text()[:10]) + suffix
	attributes := map[string]string{}
	if suffix != "" {
		attributes["FifoTopic"] = "true"
	}
	arn = aws.ToString(must(l.sns.CreateTopic(l, &sns.CreateTopicInput{Name: &name, Attributes: attributes})).TopicArn)
	queue = l.queue(suffix, nil)
	must(l.sns.Subscribe(l, &sns.SubscribeInput{
		TopicArn: &arn, Protocol: aws.String("sqs"), Endpoint: aws.String(l.queueARN(queue)), Attributes: subscription,
	}))
	return arn, queue
}

// drain receives and deletes until a queue has been empty for a moment.
func (l *lab) drain(url string) (got []sqstypes.Message) {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		out := must(l.sqs.ReceiveMessage(l, &sqs.ReceiveMessageInput{
			QueueUrl: &url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{"All"},
		}))
		for _, m := range out.Messages {
			must(l.sqs.DeleteMessage(l, &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle}))
		}
		got = append(got, out.Messages...)
		if len(out.Messages) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	return got
}

func list(messages []sqstypes.Message) string {
	var bodies []string
	for _, m := range messages {
		bodies = append(bodies, clip(aws.ToString(m.Body)))
	}
	return fmt.Sprintf("%d delivered %v", len(messages), bodies)
}
