package e2e

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// evidence is what can be read in each place that people look at, by place.
type evidence map[string]string

func (e evidence) add(place, text string) { e[place] += text + "\n" }

// requireWithout fails for every marker that is in any place, as it is or in base64,
// which is how JSON has bytes.
func (e evidence) requireWithout(t *testing.T, markers ...string) {
	t.Helper()
	for place, text := range e {
		require.NotEmpty(t, strings.TrimSpace(text), "%s was not read", place)
		for _, marker := range markers {
			for _, spelling := range spellings(marker) {
				at := strings.Index(text, spelling)
				require.Negative(t, at, "%s holds %q: …%.200q…", place, marker, text[max(0, at-100):])
			}
		}
	}
}

// spellings are a text itself, and what base64 makes of it, by where it begins in
// three bytes.
func spellings(text string) []string {
	all := []string{text}
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + text))
		all = append(all, encoded[4:len(encoded)-4]) // both ends depend on what is beside it
	}
	return all
}

// everything is a message of Temporal's API as JSON, and every payload in it decoded:
// inputs, results, details of heartbeats and failures, memos, search attributes,
// summaries.
func everything(t *testing.T, m proto.Message) string {
	t.Helper()
	b, err := protojson.Marshal(m)
	require.NoError(t, err)
	text := string(b)
	require.NoError(t, protorange.Range(m.ProtoReflect(), func(at protopath.Values) error {
		if m, ok := at.Index(-1).Value.Interface().(protoreflect.Message); ok {
			if p, ok := m.Interface().(*commonpb.Payload); ok {
				text += "\n" + string(p.GetData())
			}
		}
		return nil
	}))
	return text
}

// addTemporal adds all that Temporal has of the outbox's workflows and schedules, by
// the workflow's type.
func (e evidence) addTemporal(o *outbox, c client.Client) {
	o.t.Helper()
	listed, err := c.ListWorkflow(o.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Query: "TaskQueue = '" + o.queue + "'", PageSize: 1000,
	})
	require.NoError(o.t, err)
	e.add("list of workflows", everything(o.t, listed))
	for _, w := range listed.Executions {
		place, r := w.GetType().GetName(), run{id: w.GetExecution().GetWorkflowId(), runID: w.GetExecution().GetRunId()}
		d, err := c.DescribeWorkflowExecution(o.t.Context(), r.id, r.runID)
		require.NoError(o.t, err)
		e.add("description of "+place, everything(o.t, d))
		e.add("history of "+place, everything(o.t, history(o.t, c, r)))
		// Of a run that has just ended nobody may be there to answer.
		if v, err := c.QueryWorkflow(o.t.Context(), r.id, r.runID, "__temporal_workflow_metadata"); err == nil {
			var details sdkpb.WorkflowMetadata
			require.NoError(o.t, v.Get(&details))
			e.add("current details", everything(o.t, &details))
		}
	}
	for _, id := range []string{o.queue, o.queue + "-maintenance"} {
		d, err := c.WorkflowService().DescribeSchedule(o.t.Context(), &workflowservice.DescribeScheduleRequest{Namespace: "default", ScheduleId: id})
		require.NoError(o.t, err)
		e.add("schedules", everything(o.t, d))
	}
}

// addTables adds all tables of the outbox but that of the events.
func (e evidence) addTables(o *outbox) {
	o.t.Helper()
	rows, err := o.db.Query(o.t.Context(), `
	    SELECT c.relname FROM pg_class c
	    WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition`)
	require.NoError(o.t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(o.t, err)
	for _, table := range tables {
		var text string
		require.NoError(o.t, o.db.QueryRow(o.t.Context(),
			`SELECT coalesce(string_agg(t::text, E'\n'), 'empty') FROM outbox.`+pgx.Identifier{table}.Sanitize()+` t`).Scan(&text))
		e.add("outbox."+table, text)
	}
}

// addHTTP adds what a worker tells whoever asks it.
func (e evidence) addHTTP(w *worker) {
	w.t.Helper()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + w.http + path) //nolint:noctx // a test
		require.NoError(w.t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(w.t, err)
		require.NoError(w.t, resp.Body.Close())
		if resp.StatusCode != http.StatusNotFound {
			e.add(path, string(b))
		}
	}
}
