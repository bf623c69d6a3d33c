package errorcode

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

var update = flag.Bool("update", false, "write docs/errors.md")

const errorsIntroduction = `<!-- Made from internal/publish/errorcode/table.go: go test ./internal/publish/errorcode -run TestErrorsDocument -update -->

# Error codes

A destination refuses an event with a code. This document lists the codes and the relay's reaction to each. The relay decides
by the code. It does not use the text or the HTTP status: the services also set their own marks (` + "`SenderFault`, 4xx or 5xx" + `)
on throttling and on faults of a key, and a response with status 200 may contain failed entries.

`

// classTitles has what happens for each class, in the order of the document.
var classTitles = []struct {
	class       relay.Class
	title, text string
}{
	{relay.ClassRetry, "Retry", `It passes, or may pass: the event stays pending and is sent again, later each time. A code that is in none of
these tables belongs here, because a retry loses nothing.

**Throttling** means that the destination asks for less: less is then sent at once, and what was refused waits.`},
	{relay.ClassPoison, "Poison", `The event can never get through, so it becomes a dead letter at once, and the others of its batch go on. On an
ordered destination the later events of its key wait until it is one.

**Ambiguous** codes are only believed while other events get through. If every event is refused in this way, the destination is
taken for broken instead, after two of a topic and worker at most have become dead letters. Its recovery then also tries
events behind those that are refused. If one is accepted, the refused events are sent once more, and each that is refused
again becomes a dead letter.`},
	{relay.ClassDestination, "Destination", `Nothing gets through until a person changes something, so the topic is paused and one recovery tries, at
growing intervals, until it works. Other topics go on. No event becomes a dead letter for it, unless you give them up (` + "`starter recover TOPIC --park`" + `).`},
	{relay.ClassOurs, "Ours", `The relay built the request wrongly. It says nothing about the events, so none of them becomes a dead letter for
it. If nothing gets through, the topic is paused like for a broken destination; if others do, what was refused is sent again by
itself. The code shows where the relay needs mending.`},
}

const errorsSplitting = `## Divided requests

A request is refused as a whole or entry by entry. Where one event may be the reason for a whole refusal (**divided** in the
tables, and codes in none of them that blame the sender), the request is sent again in halves, and these in halves, until what is refused is one event. The others are
published. Parking asks for this whatever the destination answers, but for throttling.

If it was for **size**, requests stay smaller until the destination's limit is looked up again.

## Types of failure that are not codes of a destination

A failure of an activity in the Temporal UI can also have one of these types. None of them is about a destination, and none makes an
event a dead letter.

| type | it means | to do |
|---|---|---|
| ` + "`Database`" + ` | PostgreSQL refused a statement, or did not answer. The text has its error. The activity is tried again | if it lasts: ` + "`worker --check`" + ` |
| ` + "`ClaimLost`" + ` | another claim or attempt holds the batch, because the lease of this one ended: a worker stood still, or the database was away. The attempt is not repeated, and the other one publishes the events | nothing, if it is seldom |
| ` + "`Stopped`" + ` | an attempt of a recovery was ended before it could tell whether the destination is back: its worker shut down, for one. Or the worker stood still, read the task late, and Temporal did not confirm that it still waits for the attempt. The activity is tried again | nothing |
| ` + "`OperationOver`" + ` | a redrive, discard or replay was ended meanwhile, or has no record in ` + "`outbox.operation`" + `. It is not repeated | look at ` + "`outbox.operation`" + `; give the command again if it shall go on |
| ` + "`OperationElsewhere`" + ` | the record of an operation is not as this attempt left it: another attempt has taken the operation, or the database was replaced. The next attempt goes on from the place on record | nothing |
| ` + "`InvalidOperation`" + ` | the input of an ` + "`Operation`" + ` that somebody has typed into the Start Workflow form is wrong, or its topic is unknown. Nothing was changed, and it is not repeated | correct the input as the text says ([the form](runbook.md#redrive-replay-pause-resume-without-a-shell)) |
| ` + "`NothingMatches`" + ` | nothing is there of what such an input selects. Nothing was changed | look at the filters |
| ` + "`OperationUnderWay`" + ` | another workflow does the same already. Nothing was changed | look at the workflow that the text names |
| ` + "`OperationAskedBefore`" + ` | an earlier workflow of the same id did it. Nothing was changed | to do it again, start it with another workflow id |
| ` + "`Temporal`" + ` | Temporal did not say whether a recovery of an earlier version runs for a topic whose name has characters such as ` + "`/`" + `. The topic is tried again after 15 seconds | nothing |

## Spellings

The same code arrives in several spellings, depending on the protocol and on where in a response it stands. Prefixes
(` + "`AWS.SimpleQueueService.`, `com.amazonaws.sqs#`" + `), a final ` + "`Exception`" + ` and upper and lower case make no difference. A status without a
code, from a proxy say, becomes ` + "`HTTP503`" + `; ` + "`HTTP5xx`" + ` stands for all that have no row of their own.
`

func errorsDocument() string {
	var b strings.Builder
	b.WriteString(errorsIntroduction)
	for _, c := range classTitles {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n| code | from | | why | source |\n|---|---|---|---|---|\n", c.title, c.text)
		for i := range table {
			if table[i].Class == c.class {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", strings.Join(table[i].Codes, "`, `"),
					table[i].From, marks(&table[i]), table[i].Why, table[i].Source)
			}
		}
		b.WriteString("\n")
	}
	b.WriteString(errorsSplitting)
	return b.String()
}

func marks(m *Meaning) string {
	var set []string
	for _, mark := range []struct {
		set  bool
		name string
	}{{m.Throttling, "throttling"}, {m.Ambiguous, "ambiguous"}, {m.Divides, "divided"}, {m.Size, "size"}} {
		if mark.set {
			set = append(set, mark.name)
		}
	}
	return strings.Join(set, ", ")
}

func TestErrorsDocument_SaysWhatTheTableSays(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "errors.md")
	want := errorsDocument()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	// Not in one comparison, whose output would be the whole document.
	for i, line := range strings.Split(want, "\n") {
		lines := strings.Split(string(got), "\n")
		require.True(t, i < len(lines) && lines[i] == line, "docs/errors.md is stale at %q: go test ./internal/publish/errorcode -run TestErrorsDocument -update", line)
	}
	require.Len(t, got, len(want), "docs/errors.md is stale: go test ./internal/publish/errorcode -run TestErrorsDocument -update")
}

func TestErrorsDocument_HasEveryRow(t *testing.T) {
	for _, r := range table {
		require.True(t, slices.ContainsFunc(classTitles, func(c struct {
			class       relay.Class
			title, text string
		},
		) bool {
			return c.class == r.Class
		}), "%v", r.Codes)
		require.NotEmpty(t, r.From, "%v", r.Codes)
		require.NotEmpty(t, r.Why, "%v", r.Codes)
		require.NotEmpty(t, r.Source, "%v", r.Codes)
	}
}
