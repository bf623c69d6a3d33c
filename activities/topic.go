package activities

import "context"

// TopicRequest names a topic and the recovery that acts on it.
type TopicRequest struct {
	Topic      string `json:"topic"`
	RecoveryID string `json:"recoveryId"`
}

// ResumeTopic lifts the pause of a recovery that is over, and no other.
func (a *Activities) ResumeTopic(ctx context.Context, r TopicRequest) error {
	return failure(ctx, a.cfg.Store.ResumeTopic(ctx, r.Topic, r.RecoveryID), nil)
}
