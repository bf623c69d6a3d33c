package awsapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// Error says in the domain's words why a call failed. None of its texts can contain a
// payload: they are AWS's error message, or Go's description of what happened to the
// connection.
func Error(err error) *relay.PublishError {
	if pe, ok := errors.AsType[*relay.PublishError](err); ok {
		return pe
	}
	pe := &relay.PublishError{Err: err}
	status := 0
	if re, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = re.HTTPStatusCode()
	}
	api, isAPI := errors.AsType[smithy.APIError](err)
	switch {
	case isAPI && api.ErrorCode() != "" && api.ErrorCode() != "UnknownError":
		pe.Code, pe.Message = api.ErrorCode(), api.ErrorMessage()
		pe.SenderFault = api.ErrorFault() == smithy.FaultClient || status >= 400 && status < 500
	case isTimeout(err):
		pe.Code, pe.Message = relay.CodeTimeout, "no answer in time: "+innermost(err).Error()
	case status >= 300:
		// A proxy or a load balancer answered, in a language of its own.
		pe.Code = fmt.Sprintf("HTTP%d", status)
		pe.Message = "the response has no error code"
	case isConnection(err):
		pe.Code, pe.Message = relay.CodeConnection, innermost(err).Error()
	case status != 0:
		pe.Code, pe.Message = relay.CodeResponse, innermost(err).Error()
	default:
		// No credentials, for one.
		pe.Code, pe.Message = relay.CodeNotSent, operationError(err).Error()
	}
	pe.Message = errorcode.Shorten(pe.Message)
	errorcode.Classify(pe)
	if status == http.StatusTooManyRequests && pe.Class == relay.ClassRetry {
		pe.Throttled = true // whatever the code
	}
	return pe
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// isConnection reports whether the network failed, before the response or in the
// middle of it.
func isConnection(err error) bool {
	_, sent := errors.AsType[*smithyhttp.RequestSendError](err)
	_, network := errors.AsType[net.Error](err)
	return sent || network
}

// operationError takes the SDK's "operation error SNS: PublishBatch" off err.
func operationError(err error) error {
	if oe, ok := errors.AsType[*smithy.OperationError](err); ok {
		return oe.Err
	}
	return err
}

// innermost returns the error at the bottom of a chain: "connection refused"
// rather than five wrappings of it.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
