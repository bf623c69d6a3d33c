package publish

import (
	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/relay"
)

// unroutable takes the place of a destination that is not configured, or was not found. All
// events are invalid for it, so no request is ever made.
type unroutable struct {
	destination.Destination
	props destination.Properties
	err   *relay.PublishError
}

func newUnroutable(r Route, err error, whole bool) *unroutable {
	u := &unroutable{
		props: destination.Properties{Ordered: r.Ordered, MaxEvents: awsapi.MaxEvents, MaxBytes: r.Limit},
		err:   awsapi.Error(err),
	}
	u.err.Whole = whole
	return u
}

func (u *unroutable) Properties() destination.Properties { return u.props }

func (u *unroutable) Check(*relay.Event) (bytes int, invalid *relay.PublishError) { return 0, u.err }
