package awsapi

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"

	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

func TestMayHaveArrived_IsFalseBeforeTheFirstByte(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	for _, c := range []struct {
		err     error
		arrived bool
	}{
		{nil, false},
		{reset, true},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
		{&net.DNSError{Name: "sqs.example"}, false},
		{&tls.CertificateVerificationError{Err: errors.New("unknown authority")}, false},
		{detach.ErrTooLate, false},
	} {
		err := c.err
		if err != nil {
			err = &smithyhttp.RequestSendError{Err: err}
		}
		require.Equal(t, c.arrived, mayHaveArrived(err), "%v", err)
	}
}
