package publish

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
	"github.com/temporal-outbox/relay/internal/relay"
)

// fate is what is known of a request beside its answer.
type fate struct {
	// unknown is true if an attempt of it may have been accepted with nobody hearing
	// of it. The SDK repeats such an attempt, and the answer is the last one's.
	unknown bool
}

// fateKey finds a request's fate in its context.
type fateKey struct{}

// noteFate adds a step around the SDK's retries: outside of the SDK only the last
// attempt is seen.
func noteFate(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("OutboxFate", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (out middleware.FinalizeOutput, metadata middleware.Metadata, err error) {
		out, metadata, err = next.HandleFinalize(ctx, in)
		f, ok := ctx.Value(fateKey{}).(*fate)
		if !ok {
			return out, metadata, err // it publishes nothing
		}
		attempts, _ := retry.GetAttemptResults(metadata)
		for _, a := range attempts.Results {
			f.unknown = f.unknown || mayHaveArrived(a.Err)
		}
		return out, metadata, err
	}), (*retry.Attempt)(nil).ID(), middleware.Before)
}

// mayHaveArrived reports whether an attempt that failed with err may have been
// accepted. What a service says of an attempt is believed.
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
		// A proxy refused it, or lost what was behind it; or nobody can read the answer.
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

// ended says how the request in a slot went.
func (s *slot) ended() relay.Answer {
	a := relay.Answer{Events: len(s.entries)}
	if whole := s.answer[0]; whole != nil && whole.Whole {
		a.Err = whole
	}
	for i := range s.entries {
		if s.fate.unknown || s.answer[i] != nil && s.answer[i].Code == relay.CodeUnanswered {
			a.Suspected++
		}
	}
	return a
}
