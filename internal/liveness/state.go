// Package liveness asks Temporal whether the relay runs: a schedule that starts runs, a run of
// Relay, workers that poll, a current version. Temporal reports no error if one of these is
// missing: events wait, and everything else looks well. The worker and the starter show the same
// state with the same remedies, because both use this package.
package liveness

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/timing"
)

// State is the state of one relay, as Temporal reports it. Every part has a Status of its own. If
// the Status is Unknown, Why is the reason.
type State struct {
	TaskQueue string `json:"taskQueue"`
	// At is the time at which Temporal was asked, by this machine's clock.
	At       time.Time `json:"askedAt"`
	Schedule Schedule  `json:"schedule"`
	// Maintenance is the schedule of Maintenance. An operator may turn it off.
	Maintenance Schedule `json:"maintenance"`
	Run         Run      `json:"run"`
	Workers     Workers  `json:"workers"`
	// Version is nil if neither the caller, nor the task queue, nor its workers name a
	// worker deployment.
	Version *Version `json:"version,omitempty"`

	unversioned bool // it is shown to a worker without a version
}

// ForWorker returns a state for a worker of a deployment, which is "" if the worker has no
// version: then it gets no work while a version is current, however well the relay runs.
func (s State) ForWorker(deployment string) State {
	s.unversioned = deployment == ""
	return s
}

// Status is the condition of a part of a State.
type Status string

// The values of Status. A part uses some of them.
const (
	Unknown Status = "unknown" // Temporal did not answer
	Absent  Status = "absent"
	Active  Status = "active"  // a schedule that starts runs
	Paused  Status = "paused"  // a schedule
	Off     Status = "off"     // the schedule of maintenance, by "starter schedule --maintain-every 0"
	Running Status = "running" // a run that makes progress
	Stuck   Status = "stuck"   // a run whose next task no worker takes
	Polling Status = "polling" // workers
	Current Status = "current" // a deployment has a current version
)

// OffNote begins the note of the schedule of Maintenance while maintenance is turned off. That
// pause is no problem to report.
const OffNote = "maintenance is off: starter schedule --maintain-every 0"

// Schedule is a schedule of the relay.
type Schedule struct {
	ID     string `json:"id"`
	Status Status `json:"state"` // active, paused, off, absent or unknown
	Why    string `json:"unknown,omitempty"`
	// Note is the note of the operator who paused it.
	Note string     `json:"note,omitempty"`
	Next *time.Time `json:"nextAction,omitempty"`
	// last is the latest of these times: it was made, it was changed, it started a run.
	last  time.Time
	every time.Duration // 0: it has no interval
}

// Run is the run of Relay that is under way.
type Run struct {
	Status     Status     `json:"state"` // running, stuck, absent or unknown
	Why        string     `json:"unknown,omitempty"`
	WorkflowID string     `json:"workflowId,omitempty"`
	RunID      string     `json:"runId,omitempty"`
	Since      *time.Time `json:"since,omitempty"`
	// StuckSince is the time since which no worker has taken its next task.
	StuckSince *time.Time `json:"stuckSince,omitempty"`
	// Version is the build id that it is pinned to.
	Version string `json:"version,omitempty"`
	// Retrying are its batches that failed and wait for another attempt, or make one, by their failures.
	Retrying []Retry `json:"retrying,omitempty"`
}

// Retry is a batch of a run that failed and is tried again.
type Retry struct {
	// Failure is that of the last attempt. It begins with the topic.
	Failure string `json:"lastFailure"`
	// Attempt is the number of the attempt that follows, or that is under way.
	Attempt int32 `json:"attempt"`
	// Next is when that attempt begins. It is nil while the attempt is under way.
	Next *time.Time `json:"nextAttempt,omitempty"`
}

// String says what failed, and when it is tried again.
func (r Retry) String() string {
	if r.Next == nil {
		return fmt.Sprintf("attempt %d is under way; the last failure: %s", r.Attempt, r.Failure)
	}
	return fmt.Sprintf("attempt %d at %s; the last failure: %s", r.Attempt, clock(*r.Next), r.Failure)
}

// Workers are the workers that have polled the task queue in the last timing.PolledWithin. A
// killed worker counts for that long.
type Workers struct {
	Status Status `json:"state"` // polling, absent or unknown
	Why    string `json:"unknown,omitempty"`
	// Workflow and Activity are the numbers of pollers for tasks of that kind.
	Workflow int `json:"workflow"`
	Activity int `json:"activity"`

	unversioned int            // pollers for workflows
	builds      map[string]int // pollers for workflows by deployment and build, see version
	newest      string         // the build that polled last, of the deployment in State.Version
}

// Version is the worker deployment.
type Version struct {
	Deployment string `json:"deployment"`
	Status     Status `json:"state"` // current, absent (nothing is current) or unknown
	Why        string `json:"unknown,omitempty"`
	// Current is the build id that gets new runs.
	Current string `json:"current,omitempty"`
	// Unmade says that the deployment does not exist: no worker of it has polled.
	Unmade bool `json:"-"`
}

// The parts of a State, as findings name them.
const (
	OfSchedule    = "schedule"
	OfMaintenance = "maintenance"
	OfRun         = "relay"
	OfWorkers     = "workers"
	OfVersion     = "version"
)

// Finding is the verdict on one part of a State. A part may have none.
type Finding struct {
	Of string
	// Bad says that events wait, or will wait soon. Unknown says that Temporal did not answer.
	// Without both, the part is well.
	Bad, Unknown bool
	Text         string // with the remedy if it is bad
}

// Problems returns the texts of all problems for which events wait, or will wait soon, with the
// remedies. It is empty if all is well, and also if all is unknown: see Unknowns.
func (s State) Problems() []string {
	return s.texts(func(f Finding) bool { return f.Bad })
}

// Unknowns returns the reasons why parts of the state are unknown.
func (s State) Unknowns() []string {
	return s.texts(func(f Finding) bool { return f.Unknown })
}

func (s State) texts(wanted func(Finding) bool) []string {
	texts := []string{}
	for _, f := range s.Findings() {
		if wanted(f) && !slices.Contains(texts, f.Text) {
			texts = append(texts, f.Text)
		}
	}
	return texts
}

// Findings judges every part of a State, in the order in which the parts depend on each
// other.
func (s State) Findings() []Finding {
	all := []Finding{s.schedule()}
	if f, found := s.maintenance(); found {
		all = append(all, f)
	}
	all = append(all, s.run(), s.workers())
	if s.Version != nil {
		all = append(all, s.version())
	}
	return all
}

func good(of, format string, args ...any) Finding {
	return Finding{Of: of, Text: fmt.Sprintf(format, args...)}
}

func bad(of, format string, args ...any) Finding {
	return Finding{Of: of, Bad: true, Text: fmt.Sprintf(format, args...)}
}

func unknown(of, why string) Finding { return Finding{Of: of, Unknown: true, Text: why} }

func (s State) schedule() Finding {
	switch s.Schedule.Status {
	case Active:
		return good(OfSchedule, "schedule %s is active%s", s.Schedule.ID, s.Schedule.next())
	case Paused:
		return bad(OfSchedule, "schedule %s is paused%s, so no run of Relay follows, and publishing ends a minute after the last run at the latest: run %q",
			s.Schedule.ID, s.Schedule.note(), unpause(s.Schedule.ID))
	case Absent:
		return bad(OfSchedule, "there is no schedule %s, so no run of Relay is started, and publishing ends a minute after the last run at the latest: run %q",
			s.Schedule.ID, program.Starter("schedule"+s.queueFlag()))
	default:
		return unknown(OfSchedule, s.Schedule.Why)
	}
}

// maintenance has a finding only if an operator paused that schedule.
func (s State) maintenance() (f Finding, found bool) {
	if s.Maintenance.Status != Paused {
		return f, false
	}
	return bad(OfMaintenance, "schedule %s is paused%s, so that no partition is made or dropped: run %q",
		s.Maintenance.ID, s.Maintenance.note(), unpause(s.Maintenance.ID)), true
}

func (s State) run() Finding {
	r := s.Run
	switch r.Status {
	case Running:
		return good(OfRun, "run %s has been under way since %s", r.WorkflowID, clock(*r.Since))
	case Stuck:
		return bad(OfRun, "run %s has been waiting for a worker%s since %s%s", r.WorkflowID, ofVersion(r.Version), clock(*r.StuckSince), s.unstick())
	case Unknown:
		return unknown(OfRun, r.Why)
	}
	switch {
	case s.Schedule.Status == Unknown:
		return unknown(OfRun, "no run of Relay is under way, and it is not known whether the schedule starts one: "+s.Schedule.Why)
	case s.Schedule.Status != Active:
		return bad(OfRun, "no run of Relay is under way, and the schedule starts none")
	case s.overdue():
		return bad(OfRun, "no run of Relay is under way, and schedule %s has started none since %s: look at it with %q",
			s.Schedule.ID, clock(s.Schedule.last), "temporal schedule describe --schedule-id "+s.Schedule.ID)
	default:
		return good(OfRun, "no run of Relay is under way at this moment%s", s.Schedule.next())
	}
}

// unstick is the remedy for a run that waits although workers get tasks. Without workers, or
// without a current version, the run continues by itself after the repair of that problem.
func (s State) unstick() string {
	if s.Workers.Status != Polling || s.Version != nil && s.Version.Status != Current {
		return ""
	}
	return fmt.Sprintf(": start one, or terminate the run (no event is lost, and the schedule starts the next run): %q",
		"temporal workflow terminate --workflow-id "+s.Run.WorkflowID)
}

// overdue reports whether the schedule should have started a run by now.
func (s State) overdue() bool {
	if s.Schedule.every == 0 {
		return s.Schedule.Next == nil
	}
	return s.At.Sub(s.Schedule.last) > s.Schedule.every+timing.RunOverdue
}

func (s State) workers() Finding {
	w := s.Workers
	switch {
	case w.Status == Unknown:
		return unknown(OfWorkers, w.Why)
	case w.Workflow == 0 && w.Activity == 0:
		return bad(OfWorkers, "no worker polls task queue %s: start one with OUTBOX_TASK_QUEUE=%[1]s", s.TaskQueue)
	case w.Workflow == 0 || w.Activity == 0:
		return bad(OfWorkers, "task queue %s has %d pollers for workflows and %d for activities, and the relay needs both: start a worker, or restart the workers",
			s.TaskQueue, w.Workflow, w.Activity)
	default:
		return good(OfWorkers, "%d workers poll task queue %s", max(w.Workflow, w.Activity), s.TaskQueue)
	}
}

func (s State) version() Finding {
	v, w := s.Version, s.Workers
	polls := w.builds[version(v.Deployment, v.Current)]
	switch {
	case v.Status == Unknown:
		return unknown(OfVersion, v.Why)
	case v.Status == Absent && w.Status == Polling && w.unversioned > 0:
		return good(OfVersion, "no version of deployment %s is current, so workers without a version get the tasks", v.Deployment)
	case v.Unmade:
		return bad(OfVersion, "there is no worker deployment %s: start a worker of it, and then run %q", v.Deployment, promote(v.Deployment, w.newest))
	case v.Status == Absent:
		return bad(OfVersion, "worker deployment %s has no current version, so no workflow runs: run %q", v.Deployment, promote(v.Deployment, w.newest))
	case w.Status != Unknown && polls == 0 && w.unversioned > 0 && w.unversioned == w.Workflow:
		return bad(OfVersion, "version %s of deployment %s is current, and only workers without a version poll, which get no work: "+
			"start workers of that version, with TEMPORAL_DEPLOYMENT_NAME=%[2]s and TEMPORAL_WORKER_BUILD_ID=%[1]s; or %[3]s",
			v.Current, v.Deployment, unversion(v.Deployment))
	case s.unversioned && polls > 0:
		return bad(OfVersion, "version %s of deployment %s is current, so this worker, which has no version, gets no work: "+
			"stop it; or start it as a version, with TEMPORAL_DEPLOYMENT_NAME=%[2]s and a TEMPORAL_WORKER_BUILD_ID, and promote that; or %[3]s",
			v.Current, v.Deployment, unversion(v.Deployment))
	case w.Status != Unknown && polls == 0 && w.Workflow > 0:
		return bad(OfVersion, "version %s of deployment %s is current, but no worker of that version polls: start one, or run %q",
			v.Current, v.Deployment, promote(v.Deployment, w.newest))
	default:
		return good(OfVersion, "version %s of deployment %s is current", v.Current, v.Deployment)
	}
}

// version names a build of a deployment, as a key.
func version(deployment, build string) string { return deployment + "\x00" + build }

func promote(deployment, build string) string {
	return program.Starter("promote --deployment", deployment, "--build-id", cmp.Or(build, "BUILD_ID"))
}

func unversion(deployment string) string {
	return fmt.Sprintf("give the work to workers without a version: %q",
		"temporal worker deployment set-current-version --deployment-name "+deployment+" --unversioned")
}

func unpause(schedule string) string {
	return "temporal schedule toggle --unpause --schedule-id " + schedule
}

// queueFlag is the flag of a command for another task queue than the default one.
func (s State) queueFlag() string {
	if s.TaskQueue == "" || s.TaskQueue == defaultTaskQueue {
		return ""
	}
	return " --task-queue " + s.TaskQueue
}

// defaultTaskQueue is workflows.DefaultTaskQueue.
const defaultTaskQueue = "outbox-relay"

func (s Schedule) next() string {
	if s.Next == nil {
		return ""
	}
	return ", its next action is at " + clock(*s.Next)
}

func (s Schedule) note() string {
	if note := strings.TrimSpace(s.Note); note != "" {
		return " (" + note + ")"
	}
	return ""
}

func ofVersion(build string) string {
	if build == "" {
		return ""
	}
	return " of version " + build
}

func clock(t time.Time) string { return t.UTC().Format(time.DateTime + " MST") }
