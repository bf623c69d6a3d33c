package cli

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"google.golang.org/grpc"

	"github.com/temporal-outbox/relay/workflows"
)

// operator is a server that shows what it has been given only when it has been asked
// so often. A real one does so when its caches are refreshed.
type operator struct {
	operatorservice.OperatorServiceClient
	there map[string]enumspb.IndexedValueType
	added map[string]enumspb.IndexedValueType
	lag   int
}

func (o *operator) ListSearchAttributes(context.Context, *operatorservice.ListSearchAttributesRequest, ...grpc.CallOption) (*operatorservice.ListSearchAttributesResponse, error) {
	if o.added != nil {
		if o.lag--; o.lag <= 0 {
			o.there = o.added
		}
	}
	return &operatorservice.ListSearchAttributesResponse{CustomAttributes: o.there}, nil
}

func (o *operator) AddSearchAttributes(_ context.Context, r *operatorservice.AddSearchAttributesRequest, _ ...grpc.CallOption) (*operatorservice.AddSearchAttributesResponse, error) {
	o.added = r.SearchAttributes
	return &operatorservice.AddSearchAttributesResponse{}, nil
}

// A workflow that sets an attribute which the server does not know yet is stuck
// until it does.
func TestAttributes_AreNotUsedBeforeTheyAreSeen(t *testing.T) {
	o := &operator{lag: 3}
	require.NoError(t, ensureAttributes(t.Context(), o, "default"))
	require.Len(t, o.there, len(workflows.Attributes()))

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.ErrorContains(t, ensureAttributes(ctx, &operator{lag: 1000}, "default"), "not there yet")
}

func TestAttributes_OfAnotherTypeAreLeftAlone(t *testing.T) {
	o := &operator{there: map[string]enumspb.IndexedValueType{"OutboxState": enumspb.INDEXED_VALUE_TYPE_TEXT}}
	require.ErrorContains(t, ensureAttributes(t.Context(), o, "default"), "OutboxState is registered as Text: it must be Keyword")
	require.Nil(t, o.added)
}
