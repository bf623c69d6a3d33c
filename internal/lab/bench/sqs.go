package bench

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/temporal-outbox/relay/internal/stack"
)

// connections is what a client keeps open: more than there are requests under
// way, so that the ceiling is the emulator's and not the pool's.
const connections = 128

// newSQS is a bare client of the endpoint, without retries.
func newSQS(ctx context.Context, e stack.Vars) (*sqs.Client, error) {
	cfg, err := awsConfig(ctx, e)
	if err != nil {
		return nil, err
	}
	return sqs.NewFromConfig(cfg, func(o *sqs.Options) { o.DisableMessageChecksumValidation = true }), nil
}

// newBare has bare clients of the endpoint, without retries.
func newBare(ctx context.Context, e stack.Vars) (c bareClient, err error) {
	cfg, err := awsConfig(ctx, e)
	if err != nil {
		return c, err
	}
	c.sns = sns.NewFromConfig(cfg)
	c.sqs, err = newSQS(ctx, e)
	return c, err
}

func awsConfig(ctx context.Context, e stack.Vars) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 4*connections, connections
	})
	load := []func(*config.LoadOptions) error{
		config.WithRegion(e.Get("AWS_REGION")), config.WithBaseEndpoint(e.Get("AWS_ENDPOINT_URL")),
		config.WithRetryMaxAttempts(1), config.WithHTTPClient(client),
	}
	if key := e.Get("AWS_ACCESS_KEY_ID"); key != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(key, e.Get("AWS_SECRET_ACCESS_KEY"), e.Get("AWS_SESSION_TOKEN"))))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return cfg, fmt.Errorf("read AWS's configuration: %w", err)
	}
	return cfg, nil
}

// createQueue makes a queue that is ordered if its name ends in ".fifo".
func createQueue(ctx context.Context, client *sqs.Client, name string) (queueURL string, err error) {
	in := &sqs.CreateQueueInput{QueueName: &name}
	if strings.HasSuffix(name, ".fifo") {
		in.Attributes = map[string]string{"FifoQueue": "true"}
	}
	out, err := client.CreateQueue(ctx, in)
	if err != nil {
		return "", fmt.Errorf("create queue %s: %w", name, err)
	}
	return aws.ToString(out.QueueUrl), nil
}
