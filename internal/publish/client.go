package publish

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

const (
	// idleConnections is kept per host. The SDK keeps 10, and closes and
	// reopens the rest as soon as more requests than that are in flight.
	idleConnections = 128

	// writeBuffer makes a usual request of ten events one system call, in bytes
	// for each connection in use. net/http's default is 4 KiB.
	writeBuffer = 32 << 10

	// maxBackoff bounds the pause between two attempts of one request. It is
	// short because the long, visible backoff is the caller's, and because the
	// SDK's own, of up to 20 s, would use up the request's time.
	maxBackoff = 150 * time.Millisecond
)

// backoff is the pause before another attempt, spread so that what failed
// together does not come back together.
func backoff(int, error) (time.Duration, error) {
	return maxBackoff/3 + rand.N(maxBackoff*2/3), nil
}

// clients makes SDK clients. Every destination gets its own: its ARN or URL may
// name a region other than the configured one, and the SDK's retry quota is kept
// for each client, so that a broken destination does not use up another's. The
// connections are shared.
type clients struct{ aws aws.Config }

func newClients(cfg Config) clients {
	c := cfg.AWS.Copy()
	c.HTTPClient = detach.Client{HTTPClient: tuned(c.HTTPClient, cfg.AttemptTimeout)}
	c.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = cfg.Attempts
			o.Backoff = retry.BackoffDelayerFunc(backoff)
		})
	}
	// AWS_MAX_ATTEMPTS ends up here and would win over the retryer.
	c.RetryMaxAttempts = 0
	c.APIOptions = append(slices.Clone(c.APIOptions), noteFate)
	return clients{c}
}

func (c clients) sns(region string) *sns.Client {
	return sns.NewFromConfig(c.aws, func(o *sns.Options) { o.Region = region })
}

func (c clients) sqs(region string) *sqs.Client {
	return sqs.NewFromConfig(c.aws, func(o *sqs.Options) {
		o.Region = region
		// The check runs after the queue has accepted the batch and outside the
		// retry loop: it could only turn an acknowledgement into an error. TLS
		// already guards the bytes.
		o.DisableMessageChecksumValidation = true
	})
}

// tuned copies the SDK's own HTTP client, which may carry a CA bundle, with a
// larger pool and an attempt timeout.
func tuned(client aws.HTTPClient, attemptTimeout time.Duration) aws.HTTPClient {
	buildable, ok := client.(*awshttp.BuildableClient)
	if client == nil {
		buildable, ok = awshttp.NewBuildableClient(), true
	}
	if !ok {
		return client
	}
	return buildable.WithTimeout(attemptTimeout).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns = 4 * idleConnections
		t.MaxIdleConnsPerHost = idleConnections
		t.WriteBufferSize = writeBuffer
	})
}
