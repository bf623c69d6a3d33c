package workflows_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// details returns the current details, which the UI shows.
func (e *env) details() string {
	v, err := e.QueryWorkflow("__temporal_workflow_metadata")
	require.NoError(e.t, err)
	var m sdkpb.WorkflowMetadata
	require.NoError(e.t, v.Get(&m))
	return m.GetCurrentDetails()
}

func TestRelay_ShowsTheStateOfEachTopicAndItsPublishedEvents(t *testing.T) {
	e := newEnv(t)
	n := 0
	e.OnActivity(act.ClaimBatches, mock.Anything, mock.Anything).After(time.Second).Return(
		func(context.Context, activities.ClaimRequest) (r activities.ClaimResult, _ error) {
			switch n++; n {
			case 1:
				r.Batches = []relay.Batch{batch("orders", 1)}
			case 3:
				r.Topics = []relay.TopicState{{Topic: "audit", Recovery: "outbox-recovery/audit"}, {Topic: "orders", Pending: 1234, Dead: 1, DeadCode: "EventTooLarge"}}
			}
			return r, nil
		})
	e.onPublish(500*time.Millisecond, published)
	e.RegisterDelayedCallback(func() {
		require.Contains(t, e.details(), "Published in this run: **0 events**")
	}, 500*time.Millisecond)
	e.RegisterDelayedCallback(func() {
		require.Contains(t, e.details(), "Published in this run: **10 events**", "and no topic was sampled yet")
	}, 2500*time.Millisecond)
	e.RegisterDelayedCallback(func() {
		require.Contains(t, e.details(), "| orders | \u00a0flows; has **dead letters**: EventTooLarge | \u00a01,234 |  |  | \u00a01 | \u00a010 |")
		require.Contains(t, e.details(), "| audit | \u00a0**destination broken**")
	}, 8*time.Second) // long after the third claim: some time of the test's machine passes, too
	r := e.run(workflows.RelayInput{RunFor: 10 * time.Second})
	require.Contains(t, e.details(), "| orders | \u00a0flows; has **dead letters**: EventTooLarge | \u00a01,234 |  |  | \u00a01 | \u00a010 |", "also when it is over")
	require.Equal(t, []string{"audit"}, r.Broken, "though no batch of this run met it")
	require.Equal(t, []string{"orders"}, r.HaveDead)
	require.Empty(t, r.Paused)
}

// upserts records the search attributes that are set, in order.
func (e *env) upserts() *[]map[string]string {
	var all []map[string]string
	e.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Run(func(args mock.Arguments) {
		set := map[string]string{}
		for key, value := range args.Get(0).(temporal.SearchAttributes).GetUntypedValues() {
			set[key.GetName()] = value.(string)
		}
		all = append(all, set)
	})
	return &all
}

func TestRecovery_SetsItsStateAsASearchAttribute(t *testing.T) {
	refusing := temporal.NewApplicationError("not you", "AuthorizationError")
	for want, c := range map[string]struct {
		publish func(r activities.PublishRequest) (activities.PublishResult, error)
		during  func(e *env)
		says    string
	}{
		"recovered": {
			publish: func(activities.PublishRequest) (activities.PublishResult, error) {
				return activities.PublishResult{Published: 10}, nil
			},
			says: "(recovered) after 1s, with 10 events published",
		},
		"paused": {
			publish: func(activities.PublishRequest) (activities.PublishResult, error) {
				return activities.PublishResult{PausedBy: "ada"}, nil
			},
			says: "(paused)",
		},
		"lost": {
			publish: func(activities.PublishRequest) (activities.PublishResult, error) {
				return activities.PublishResult{}, temporal.NewNonRetryableApplicationError("lost", activities.TypeClaimLost, nil)
			},
			says: "(lost)",
		},
		"parked": {
			publish: func(r activities.PublishRequest) (activities.PublishResult, error) {
				if !r.Park {
					return activities.PublishResult{}, refusing
				}
				return activities.PublishResult{}, nil
			},
			during: func(e *env) {
				e.UpdateWorkflow(workflows.UpdatePark, "", &updates{}, workflows.ParkRequest{By: "ann_o", Reason: "gone"})
			},
			says: "(parked)",
		},
		"cancelled": {
			publish: func(activities.PublishRequest) (activities.PublishResult, error) {
				return activities.PublishResult{}, refusing
			},
			during: (*env).CancelWorkflow,
			says:   "(cancelled)",
		},
		"failed": {
			publish: func(activities.PublishRequest) (activities.PublishResult, error) {
				return activities.PublishResult{}, temporal.NewNonRetryableApplicationError("what?", "Unforeseen", nil)
			},
			says: "(failed)",
		},
	} {
		t.Run(want, func(t *testing.T) {
			e := newEnv(t)
			e.onResume()
			e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(nil)
			e.onPublish(time.Second, c.publish)
			set := e.upserts()
			if c.during != nil {
				e.RegisterDelayedCallback(func() {
					require.Contains(t, e.details(), "Topic **a\\_b** has been waiting for its destination since **20")
					require.Contains(t, e.details(), "> a\\_b → SQS queue q: no")
					c.during(e)
				}, 10*time.Second)
			}
			e.ExecuteWorkflow(workflows.Recovery, workflows.RecoveryInput{
				Reason: "a_b → SQS queue q: no", Error: "AuthorizationError", Destination: "SQS queue q",
				SearchAttributes: true, Concurrency: 4, Batch: batch("a_b", 1),
			})
			require.True(t, e.IsWorkflowCompleted())
			require.Equal(t, []map[string]string{
				{"OutboxTopic": "a_b", "OutboxState": "recovering", "OutboxError": "AuthorizationError"},
				{"OutboxState": want},
			}, *set)
			require.Contains(t, e.details(), "is over "+c.says)
		})
	}
}

func TestRecovery_SetsNoSearchAttributeThatIsNotRegistered(t *testing.T) {
	e := newEnv(t)
	e.onResume()
	e.onPublish(time.Second, published)
	set := e.upserts()
	e.recover()
	require.Empty(t, *set)
}

// Visibility stores keep 255 bytes of a keyword, and a topic may have 256.
func TestRecovery_CutsALongTopicInItsSearchAttribute(t *testing.T) {
	e := newEnv(t)
	e.onResume()
	e.onPublish(time.Second, published)
	set := e.upserts()
	e.ExecuteWorkflow(workflows.Recovery, workflows.RecoveryInput{SearchAttributes: true, Batch: batch(strings.Repeat("ä", 128), 1)})
	require.NoError(t, e.GetWorkflowError())
	require.Len(t, *set, 2)
	require.Equal(t, map[string]string{"OutboxTopic": strings.Repeat("ä", 126) + "…", "OutboxState": "recovering"}, (*set)[0])
}

func TestRelay_PassesTheFailureToItsRecoveries(t *testing.T) {
	for _, registered := range []bool{true, false} {
		e := newEnv(t)
		e.claimOnce(batch("orders", 1))
		e.onPublish(time.Second, func(activities.PublishRequest) (activities.PublishResult, error) {
			return activities.PublishResult{}, temporal.NewApplicationErrorWithOptions("orders → SQS queue q: no", "NonExistentQueue",
				temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{activities.PublishResult{Destination: "SQS queue q"}}})
		})
		var in workflows.RecoveryInput
		e.OnWorkflow(workflows.Recovery, mock.Anything, mock.Anything).Return(
			func(_ workflow.Context, r workflows.RecoveryInput) (workflows.RecoveryResult, error) {
				in = r
				return workflows.RecoveryResult{}, nil
			})
		e.run(workflows.RelayInput{RunFor: 20 * time.Second, SearchAttributes: registered})
		require.Equal(t, workflows.RecoveryInput{
			Reason: "orders → SQS queue q: no", Error: "NonExistentQueue", Destination: "SQS queue q",
			SearchAttributes: registered, Concurrency: workflows.DefaultConcurrency, Batch: batch("orders", 1),
		}, in)
	}
}

func TestMaintenance_ShowsItsWarningsOrThatAllIsWell(t *testing.T) {
	e := newEnv(t)
	e.maintain(workflows.MaintenanceInput{}, relay.Partitions{}, relay.Partitions{}, relay.Health{Ahead: 14})
	require.Contains(t, e.details(), "Partitions and retention are in order: partitions exist for 14 days ahead.")
	e = newEnv(t)
	e.maintain(workflows.MaintenanceInput{}, relay.Partitions{}, relay.Partitions{}, relay.Health{Ahead: 14, HeldXIDs: 2_000_000, HeldBy: "replication slot a_b"})
	require.Contains(t, e.details(), "Action needed:\n\n- replication slot a\\_b holds vacuum back")
}
