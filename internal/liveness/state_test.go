package liveness

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time { t := noon.Add(-d); return &t }

// well is a state in which nothing is wrong, of workers without a version.
func well() State {
	return State{
		TaskQueue:   "orders",
		At:          noon,
		Schedule:    Schedule{ID: "orders", Status: Active, Next: ago(-time.Minute), last: *ago(time.Minute), every: time.Minute},
		Maintenance: Schedule{ID: "orders-maintenance", Status: Active},
		Run:         Run{Status: Running, WorkflowID: "orders-2026-11-29T11:59:00Z", Since: ago(time.Minute)},
		Workers:     Workers{Status: Polling, Workflow: 2, Activity: 2, unversioned: 2, builds: map[string]int{}},
	}
}

// versioned is the same of workers of version 7.
func versioned() State {
	s := well()
	s.Workers.unversioned, s.Workers.builds, s.Workers.newest = 0, map[string]int{version("shop", "7"): 2}, "7"
	s.Version = &Version{Deployment: "shop", Status: Current, Current: "7"}
	return s
}

func TestProblems_NameTheRemedyOfEachStateInWhichEventsWait(t *testing.T) {
	for name, c := range map[string]struct {
		is       func(*State)
		of       func() State
		problems []string
		unknown  []string
	}{
		"all is well":                {},
		"all is well, with versions": {of: versioned},
		"schedule absent": {
			is:       func(s *State) { s.Schedule = Schedule{ID: "orders", Status: Absent} },
			problems: []string{`there is no schedule orders, so no run of Relay is started, and publishing ends a minute after the last run at the latest: run "starter schedule --task-queue orders"`},
		},
		"schedule absent, of the default task queue": {
			is:       func(s *State) { s.TaskQueue, s.Schedule = "outbox-relay", Schedule{ID: "outbox-relay", Status: Absent} },
			problems: []string{`there is no schedule outbox-relay, so no run of Relay is started, and publishing ends a minute after the last run at the latest: run "starter schedule"`},
		},
		"schedule paused, its last run goes on": {
			is:       func(s *State) { s.Schedule = Schedule{ID: "orders", Status: Paused, Note: "ada: our deploy "} },
			problems: []string{`schedule orders is paused (ada: our deploy), so no run of Relay follows, and publishing ends a minute after the last run at the latest: run "temporal schedule toggle --unpause --schedule-id orders"`},
		},
		"schedule paused, no run": {
			is: func(s *State) { s.Schedule, s.Run = Schedule{ID: "orders", Status: Paused}, Run{Status: Absent} },
			problems: []string{
				`schedule orders is paused, so no run of Relay follows, and publishing ends a minute after the last run at the latest: run "temporal schedule toggle --unpause --schedule-id orders"`,
				"no run of Relay is under way, and the schedule starts none",
			},
		},
		"maintenance paused": {
			is:       func(s *State) { s.Maintenance = Schedule{ID: "orders-maintenance", Status: Paused, Note: "holiday"} },
			problems: []string{`schedule orders-maintenance is paused (holiday), so that no partition is made or dropped: run "temporal schedule toggle --unpause --schedule-id orders-maintenance"`},
		},
		"maintenance off": {is: func(s *State) {
			s.Maintenance = Schedule{ID: "orders-maintenance", Status: Off, Note: OffNote}
		}},
		"maintenance absent, as --maintain-every 0 of an earlier version left it": {is: func(s *State) { s.Maintenance.Status = Absent }},
		"run cancelled just now": {is: func(s *State) { s.Run = Run{Status: Absent} }},
		"no run for longer than the schedule's interval": {
			is:       func(s *State) { s.Run, s.Schedule.last = Run{Status: Absent}, *ago(2 * time.Minute) },
			problems: []string{`no run of Relay is under way, and schedule orders has started none since 2026-11-29 11:58:00 UTC: look at it with "temporal schedule describe --schedule-id orders"`},
		},
		"no run, and a schedule by the calendar that has a next action": {
			is: func(s *State) { s.Run, s.Schedule.every, s.Schedule.last = Run{Status: Absent}, 0, *ago(time.Hour) },
		},
		"no run, and a schedule that is over": {
			is:       func(s *State) { s.Run, s.Schedule.every, s.Schedule.Next = Run{Status: Absent}, 0, nil },
			problems: []string{`no run of Relay is under way, and schedule orders has started none since 2026-11-29 11:59:00 UTC: look at it with "temporal schedule describe --schedule-id orders"`},
		},
		"nobody polls": {
			is:       func(s *State) { s.Workers = Workers{Status: Absent} },
			problems: []string{"no worker polls task queue orders: start one with OUTBOX_TASK_QUEUE=orders"},
		},
		"nobody takes activities": {
			is:       func(s *State) { s.Workers.Activity = 0 },
			problems: []string{"task queue orders has 2 pollers for workflows and 0 for activities, and the relay needs both: start a worker, or restart the workers"},
		},
		"nobody polls, and the run waits": {
			is: func(s *State) {
				s.Run.Status, s.Run.StuckSince, s.Workers = Stuck, ago(30*time.Second), Workers{Status: Absent}
			},
			problems: []string{
				"run orders-2026-11-29T11:59:00Z has been waiting for a worker since 2026-11-29 11:59:30 UTC",
				"no worker polls task queue orders: start one with OUTBOX_TASK_QUEUE=orders",
			},
		},
		"the run is pinned to a version that nobody polls": {
			of:       versioned,
			is:       func(s *State) { s.Run.Status, s.Run.StuckSince, s.Run.Version = Stuck, ago(30*time.Second), "6" },
			problems: []string{`run orders-2026-11-29T11:59:00Z has been waiting for a worker of version 6 since 2026-11-29 11:59:30 UTC: start one, or terminate the run (no event is lost, and the schedule starts the next run): "temporal workflow terminate --workflow-id orders-2026-11-29T11:59:00Z"`},
		},
		"no version is current": {
			of: versioned,
			is: func(s *State) {
				s.Version = &Version{Deployment: "shop", Status: Absent}
				s.Run.Status, s.Run.StuckSince = Stuck, ago(30*time.Second)
			},
			problems: []string{
				"run orders-2026-11-29T11:59:00Z has been waiting for a worker since 2026-11-29 11:59:30 UTC",
				`worker deployment shop has no current version, so no workflow runs: run "starter promote --deployment shop --build-id 7"`,
			},
		},
		"no version is current, and workers without a version do the work": {
			is: func(s *State) { s.Version = &Version{Deployment: "shop", Status: Absent} },
		},
		"the deployment does not exist yet": {
			is: func(s *State) {
				s.Version, s.Workers = &Version{Deployment: "shop", Status: Absent, Unmade: true}, Workers{Status: Absent}
			},
			problems: []string{
				"no worker polls task queue orders: start one with OUTBOX_TASK_QUEUE=orders",
				`there is no worker deployment shop: start a worker of it, and then run "starter promote --deployment shop --build-id BUILD_ID"`,
			},
		},
		"only other versions than the current one poll": {
			of:       versioned,
			is:       func(s *State) { s.Version.Current = "6" },
			problems: []string{`version 6 of deployment shop is current, but no worker of that version polls: start one, or run "starter promote --deployment shop --build-id 7"`},
		},
		"only workers without a version poll, and a version is current": {
			is:       func(s *State) { s.Version = &Version{Deployment: "shop", Status: Current, Current: "6"} },
			problems: []string{`version 6 of deployment shop is current, and only workers without a version poll, which get no work: start workers of that version, with TEMPORAL_DEPLOYMENT_NAME=shop and TEMPORAL_WORKER_BUILD_ID=6; or give the work to workers without a version: "temporal worker deployment set-current-version --deployment-name shop --unversioned"`},
		},
		"workers without a version and of other versions poll, and a version is current": {
			of:       versioned,
			is:       func(s *State) { s.Version.Current, s.Workers.unversioned, s.Workers.Workflow = "6", 1, 3 },
			problems: []string{`version 6 of deployment shop is current, but no worker of that version polls: start one, or run "starter promote --deployment shop --build-id 7"`},
		},
		"a worker without a version polls beside those of the current one": {
			of: versioned,
			is: func(s *State) { s.Workers.unversioned, s.Workers.Workflow = 1, 3 },
		},
		"the same, for that worker": {
			of: versioned,
			is: func(s *State) {
				s.Workers.unversioned, s.Workers.Workflow = 1, 3
				*s = s.ForWorker("")
			},
			problems: []string{`version 7 of deployment shop is current, so this worker, which has no version, gets no work: stop it; or start it as a version, with TEMPORAL_DEPLOYMENT_NAME=shop and a TEMPORAL_WORKER_BUILD_ID, and promote that; or give the work to workers without a version: "temporal worker deployment set-current-version --deployment-name shop --unversioned"`},
		},
		"the same, for a worker of the current version": {
			of: versioned,
			is: func(s *State) {
				s.Workers.unversioned, s.Workers.Workflow = 1, 3
				*s = s.ForWorker("shop")
			},
		},
		"a worker without a version, and no deployment": {is: func(s *State) { *s = s.ForWorker("") }},
		"a worker without a version, and no version is current": {is: func(s *State) {
			s.Version = &Version{Deployment: "shop", Status: Absent}
			*s = s.ForWorker("")
		}},
		"rights are missing, for some": {
			of: versioned,
			is: func(s *State) {
				s.Schedule = Schedule{ID: "orders", Status: Unknown, Why: "denied"}
				s.Version = &Version{Deployment: "shop", Status: Unknown, Why: "denied, too"}
			},
			unknown: []string{"denied", "denied, too"},
		},
		"no run, and the schedule is not known": {
			is: func(s *State) {
				s.Schedule, s.Run = Schedule{ID: "orders", Status: Unknown, Why: "denied"}, Run{Status: Absent}
			},
			unknown: []string{"denied", "no run of Relay is under way, and it is not known whether the schedule starts one: denied"},
		},
		"nothing is known": {
			of:      func() State { return Untold("orders", errors.New("no answer")) },
			unknown: []string{"no answer"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := well()
			if c.of != nil {
				s = c.of()
			}
			if c.is != nil {
				c.is(&s)
			}
			if c.problems == nil {
				c.problems = []string{}
			}
			if c.unknown == nil {
				c.unknown = []string{}
			}
			require.Equal(t, c.problems, s.Problems())
			require.Equal(t, c.unknown, s.Unknowns())
		})
	}
}

func TestFindings_SayOfEachPartThatItIsWell(t *testing.T) {
	texts := map[string]string{}
	for _, f := range versioned().Findings() {
		texts[f.Of] = f.Text
	}
	require.Equal(t, map[string]string{
		"schedule": "schedule orders is active, its next action is at 2026-11-29 12:01:00 UTC",
		"relay":    "run orders-2026-11-29T11:59:00Z has been under way since 2026-11-29 11:59:00 UTC",
		"workers":  "2 workers poll task queue orders",
		"version":  "version 7 of deployment shop is current",
	}, texts)
}

// Scripts read it.
func TestState_AsJSONHasEachPartWithItsState(t *testing.T) {
	b, err := json.Marshal(versioned())
	require.NoError(t, err)
	require.JSONEq(t, `{
		"taskQueue": "orders", "askedAt": "2026-11-29T12:00:00Z",
		"schedule": {"id": "orders", "state": "active", "nextAction": "2026-11-29T12:01:00Z"},
		"maintenance": {"id": "orders-maintenance", "state": "active"},
		"run": {"state": "running", "workflowId": "orders-2026-11-29T11:59:00Z", "since": "2026-11-29T11:59:00Z"},
		"workers": {"state": "polling", "workflow": 2, "activity": 2},
		"version": {"deployment": "shop", "state": "current", "current": "7"}
	}`, string(b))
}
