package awsapi

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

// delivery is a fact about a request that its answer does not have.
type delivery struct {
	// uncertain is true if an attempt may have been accepted although its answer was
	// lost. The SDK repeats such an attempt, and the answer is the last one's.
	uncertain bool
	// throttled is true if the service refused an attempt because there were too many.
	throttled bool
}

// deliveryKey finds a request's delivery in its context.
type deliveryKey struct{}

// noteDelivery adds a step around the SDK's retries: outside of the SDK only the last
// attempt is seen.
func noteDelivery(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("OutboxDelivery", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (out middleware.FinalizeOutput, metadata middleware.Metadata, err error) {
		out, metadata, err = next.HandleFinalize(ctx, in)
		d, ok := ctx.Value(deliveryKey{}).(*delivery)
		if !ok {
			return out, metadata, err // it publishes nothing
		}
		attempts, _ := retry.GetAttemptResults(metadata)
		for _, a := range attempts.Results {
			d.uncertain = d.uncertain || mayHaveArrived(a.Err)
			d.throttled = d.throttled || a.Err != nil && Error(a.Err).Throttled
		}
		return out, metadata, err
	}), (*retry.Attempt)(nil).ID(), middleware.Before)
}

// mayHaveArrived reports whether an attempt that failed with err may have been
// accepted. An answer of the service itself is believed.
func mayHaveArrived(err error) bool {
	if err == nil {
		return false
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() != "" && api.ErrorCode() != "UnknownError" {
		return false
	}
	if neverSent(err) {
		return false
	}
	if re, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		// A proxy rejected it, or lost the service behind it; or the answer cannot be read.
		status := re.HTTPStatusCode()
		return status < http.StatusMultipleChoices || status >= http.StatusInternalServerError
	}
	return isTimeout(err) || isConnection(err)
}

// neverSent reports whether err is from before the first byte of a request.
func neverSent(err error) bool {
	op, network := errors.AsType[*net.OpError](err)
	_, name := errors.AsType[*net.DNSError](err)
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	return network && op.Op == "dial" || name || certificate || errors.Is(err, detach.ErrTooLate)
}
