// Package awsapi has what the destinations on SNS and SQS share: the SDK's configuration, the
// translation of its errors, the accounting for the entries of a batch, and the texts about a
// destination that is not found.
package awsapi

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

const (
	// idleConnections is kept per host. The SDK keeps 10, and closes and
	// reopens the rest as soon as more requests than that are in flight. All
	// destinations of a region share a host, so this is more than limit.Ceiling.
	idleConnections = 256

	// writeBuffer makes a usual request of ten events one system call, in bytes
	// for each connection in use. net/http's default is 4 KiB.
	writeBuffer = 32 << 10

	// MaxBackoff bounds the pause between two attempts of one request. It is
	// short because the long, visible backoff is the caller's, and because the
	// SDK's own, of up to 20 s, would use up the request's time.
	MaxBackoff = 150 * time.Millisecond
)

// backoff is the pause before another attempt, spread so that what failed
// together does not come back together.
func backoff(int, error) (time.Duration, error) {
	return MaxBackoff/3 + rand.N(MaxBackoff*2/3), nil
}

// Config returns cfg as clients of a publisher need it: with so many attempts of a request, each
// no longer than attemptTimeout, and noting whether a delivery is uncertain.
//
// Every destination gets a client of its own: its ARN or URL may name a region other than the
// configured one, and the SDK's retry quota is kept for each client, so that a broken destination
// does not use up another's. The connections are shared.
func Config(cfg aws.Config, attempts int, attemptTimeout time.Duration) aws.Config {
	c := cfg.Copy()
	c.HTTPClient = detach.Client{HTTPClient: tuned(c.HTTPClient, attemptTimeout)}
	c.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = attempts
			o.Backoff = retry.BackoffDelayerFunc(backoff)
		})
	}
	// AWS_MAX_ATTEMPTS ends up here and would win over the retryer.
	c.RetryMaxAttempts = 0
	c.APIOptions = append(slices.Clone(c.APIOptions), noteDelivery)
	return c
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
