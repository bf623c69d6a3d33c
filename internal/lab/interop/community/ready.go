package community

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

const tailLines = 20

// ready waits for the init hooks, which LocalStack runs once its services are up,
// and has both services answer once: the first request is far slower than the rest.
func (in *Instance) ready(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-in.done:
			return fmt.Errorf("it ended by itself:\n%s", in.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%w; its log:\n%s", context.Cause(ctx), in.logTail())
		case <-tick.C:
		}
		services, err := get(ctx, in.Endpoint+"/_localstack/health")
		if err != nil {
			continue
		}
		if !strings.Contains(services, `"sns": "running"`) || !strings.Contains(services, `"sqs": "running"`) {
			if strings.Contains(services, `"error"`) {
				return fmt.Errorf("sns or sqs does not load:\n%s", in.logTail())
			}
			continue
		}
		hooks, err := get(ctx, in.Endpoint+"/_localstack/init/ready")
		switch {
		case err != nil || !strings.Contains(hooks, `"completed": true`):
		case strings.Contains(hooks, `"ERROR"`):
			return fmt.Errorf("an init hook failed:\n%s", in.logTail())
		default:
			return in.ask(ctx)
		}
	}
}

// logTail returns the end of LocalStack's log for an error message.
func (in *Instance) logTail() string {
	text, err := os.ReadFile(in.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

func (in *Instance) ask(ctx context.Context) error {
	cfg := aws.Config{
		Region: "us-east-1", BaseEndpoint: &in.Endpoint,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	}
	if _, err := sqs.NewFromConfig(cfg).ListQueues(ctx, &sqs.ListQueuesInput{}); err != nil {
		return fmt.Errorf("ask sqs: %w", err)
	}
	if _, err := sns.NewFromConfig(cfg).ListTopics(ctx, &sns.ListTopicsInput{}); err != nil {
		return fmt.Errorf("ask sns: %w", err)
	}
	return nil
}

// get returns the body of an answer with status 200.
func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s", url, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(body), err
}
