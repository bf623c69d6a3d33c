package errorcode

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

var update = flag.Bool("update", false, "write docs/errors.md")

const errorsIntroduction = `<!-- Made from internal/publish/errorcode/table.go: go test ./internal/publish/errorcode -run TestErrorsDocument -update -->

# Error codes

If an event fails, the failure has a code. Find the code in the table: the rows are in alphabetical order. If your code is
not in the table, the treatment is [retry](#retry), because a retry loses nothing. If you have the type of a failure from
the Temporal UI, also look at the [other types of failure](#types-of-failure-that-are-not-codes-of-a-destination).

- **from**: the sender of the code. ` + "`HTTP`" + ` is a server between the worker and AWS that answers without a code of AWS: a
  proxy, a load balancer or a firewall. ` + "`relay`" + ` is the relay itself.
- **treatment**: the class of the code ([retry](#retry), [poison](#poison), [destination](#destination) or
  [ours](#ours)), and special rules ([throttling](#throttling), [ambiguous](#ambiguous), [divided](#divided-requests),
  [size](#size)).
- A code that is a link has [notes](#notes-on-codes). If the spelling of your code differs, see [spellings](#spellings).

If an answer has a code of AWS, the relay decides by this code, not by the text or the HTTP status. The services' own marks
(` + "`SenderFault`" + `, 4xx or 5xx) also occur with throttling and with faults of a KMS key. A response with status 200 may contain
failed entries. If an answer has no code of AWS, the relay makes one of the status, such as ` + "`HTTP5xx`" + `.

## Codes

`

const errorsTreatments = `## Retry

The cause passes, or may pass. The event stays pending. The relay sends it again after a pause that grows with each attempt.
If only single events fail, each becomes a dead letter after the topic's ` + "`giveUpAfter`" + `. If three attempts in a row get no
event through, the topic gets a recovery ([broken destination](concepts.md#failures)).

### Throttling

The destination asks for fewer requests. The worker then starts fewer requests a second, a little below the rate that the
destination accepted, and tries more only after a while. Refused events wait for the next attempt.

## Poison

The destination can never accept the event. The event becomes a dead letter at once, and the relay goes on with the other
events of the batch. On an ordered destination, later events of the same key wait until the dead letter is recorded.

### Ambiguous

The cause of such a code may be the event or the destination. The relay takes the event for poison only while the
destination accepts other events.

- If the destination accepts another event of the same request, the refused event becomes a dead letter at once.
- If the destination refuses every event with such a code, the relay takes the destination for
  [broken](concepts.md#failures). Before that, each worker makes at most two events of the topic dead letters.
- If other requests are accepted meanwhile and more than two events are refused, the relay sends the refused events
  once more. The destination may have broken in between, or a person may have repaired it.
- The recovery of the topic also tries events behind the refused ones. If the destination accepts one, the recovery sends
  the refused events once more. Each event that is refused again becomes a dead letter.

## Destination

The destination accepts nothing until a person repairs something. One recovery of the topic tries again, at growing
intervals, until the destination accepts events. Other topics go on. No event becomes a dead letter because of
such a code, unless you give up the events (` + "`starter recover TOPIC --park`" + `).

## Ours

The relay built a wrong request. The code says nothing about the events, so no event becomes a dead letter because of it.
The code shows which part of the relay needs a correction.

- If the destination accepts nothing, the topic gets a recovery, as for a broken destination.
- If the destination accepts other events, the relay sends the refused ones again by itself.

## Divided requests

A destination can refuse single entries of a request, or the whole request. If it refuses the whole request, and one event
may be the cause, the relay sends the request again in halves. It divides the refused halves again, until it has found the
event. The other events are published. The relay divides a request in these cases:

- The table says **divided**.
- The code is not in the table, the destination blames the sender, and it does not ask for fewer requests.
- An operator parks the topic. The relay then divides for every code, with two exceptions: [throttling](#throttling), and
  requests without an answer (` + "`Timeout`" + `, ` + "`Connection`" + `, ` + "`NotSent`" + `).

### Size

The request was too large. The relay sends smaller requests until it looks up the destination's limit again.

## Notes on codes

`

const errorsEnd = `## Types of failure that are not codes of a destination

In the Temporal UI, the failure of an activity can also have one of these types. None of them is about a destination, and
none makes an event a dead letter.

| type | retried | meaning | what you do |
|---|---|---|---|
| ` + "`ClaimLost`" + ` | no | The lease of the attempt ended, and another claim or attempt holds the batch. | nothing, if it is rare |
| ` + "`Database`" + ` | yes | PostgreSQL refused a statement, or did not answer. The text has its error. | if it lasts: ` + "`worker --check`" + ` |
| ` + "`InvalidOperation`" + ` | no | The input of an ` + "`Operation`" + ` is wrong, or its topic is unknown. | correct the input as the text says |
| ` + "`NothingMatches`" + ` | no | Nothing matches the input of an ` + "`Operation`" + `. | check the filters |
| ` + "`OperationAskedBefore`" + ` | no | An earlier workflow with the same id did it. | to do it again, start it with another workflow id |
| ` + "`OperationElsewhere`" + ` | yes | The record of an operation is not as this attempt left it. | nothing |
| ` + "`OperationOver`" + ` | no | A redrive, discard or replay has ended, or has no record. | look at ` + "`outbox.operation`" + ` |
| ` + "`OperationUnderWay`" + ` | no | Another workflow already does the same. | look at the workflow that the text names |
| ` + "`Seated`" + ` | at once | A worker does not need the seat that it got, and passes it on. | nothing |
| ` + "`Stopped`" + ` | yes | The attempt was ended early, or it began too late. | nothing |
| ` + "`Temporal`" + ` | after 15 s | Temporal did not answer a question about an old recovery. | nothing |

- ` + "`ClaimLost`" + `: a lease ends if a worker stands still or the database is away. The other claim or attempt publishes the
  events.
- ` + "`InvalidOperation`" + `, ` + "`NothingMatches`" + `, ` + "`OperationAskedBefore`" + `, ` + "`OperationUnderWay`" + `: nothing was changed. The input is
  that of the [Start Workflow form](runbook.md#redrive-replay-pause-resume-without-a-shell) in the Temporal UI.
- ` + "`OperationElsewhere`" + `: another attempt has taken the operation, or the database was replaced. The next attempt continues
  from the recorded position.
- ` + "`OperationOver`" + `: the operation was ended while the attempt ran, or ` + "`outbox.operation`" + ` has no record of it. To continue,
  give the command again.
- ` + "`Stopped`" + `: an attempt of a recovery was ended before it knew whether the destination is back. For example, its worker
  shut down. Or the worker stood still and read a task late, and Temporal did not confirm that it still waits for the
  attempt.
- ` + "`Temporal`" + `: the question is whether a recovery of an earlier version still runs. The relay asks only for a topic whose
  name has characters such as ` + "`/`" + `.

## Spellings

A code arrives in several spellings, which depend on the protocol and on the code's place in the response. These parts make
no difference:

- prefixes such as ` + "`AWS.SimpleQueueService.`" + ` and ` + "`com.amazonaws.sqs#`" + `
- ` + "`Exception`" + ` at the end
- upper and lower case

A status without a code, for example from a proxy, becomes a code such as ` + "`HTTP503`" + `. ` + "`HTTP5xx`" + ` stands for each 5xx status
without a row of its own, and ` + "`HTTP4xx`" + ` and ` + "`HTTP3xx`" + ` likewise.

## Sources

These documents describe the codes:

`

// treatment is a word of the column of that name, and its heading in the document.
type treatment struct {
	name, anchor string
	of           func(*Meaning) bool
}

var (
	classes = []treatment{
		{"retry", "retry", isClass(relay.ClassRetry)},
		{"poison", "poison", isClass(relay.ClassPoison)},
		{"destination", "destination", isClass(relay.ClassDestination)},
		{"ours", "ours", isClass(relay.ClassOurs)},
	}
	treatments = append(slices.Clone(classes),
		treatment{"throttling", "throttling", func(m *Meaning) bool { return m.Throttling }},
		treatment{"ambiguous", "ambiguous", func(m *Meaning) bool { return m.Ambiguous }},
		treatment{"divided", "divided-requests", func(m *Meaning) bool { return m.Divides }},
		treatment{"size", "size", func(m *Meaning) bool { return m.Size }},
	)
)

func isClass(class relay.Class) func(*Meaning) bool {
	return func(m *Meaning) bool { return m.Class == class }
}

func errorsDocument() string {
	var b strings.Builder
	b.WriteString(errorsIntroduction)
	writeCodes(&b)
	b.WriteString(errorsTreatments)
	writeNotes(&b)
	b.WriteString(errorsEnd)
	writeSources(&b)
	return b.String()
}

// writeCodes writes one row for each code. Links to treatments are references, because
// links with their targets would make the rows too long.
func writeCodes(b *strings.Builder) {
	b.WriteString("| code | from | treatment | meaning |\n|---|---|---|---|\n")
	for _, code := range sortedCodes(func(*Meaning) bool { return true }) {
		m := byCode[normal(code)]
		shown := "`" + code + "`"
		if len(m.Notes) > 0 {
			shown = fmt.Sprintf("[%s](#%s)", shown, strings.ToLower(m.Codes[0]))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", shown, m.From, treatmentsOf(m), m.Why)
	}
	b.WriteString("\n")
	for _, t := range treatments {
		fmt.Fprintf(b, "[%s]: #%s\n", t.name, t.anchor)
	}
	b.WriteString("\n")
}

func treatmentsOf(m *Meaning) string {
	var set []string
	for _, t := range treatments {
		if t.of(m) {
			set = append(set, "["+t.name+"]")
		}
	}
	return strings.Join(set, ", ")
}

// writeNotes writes a heading for the first code of each meaning that has notes.
func writeNotes(b *strings.Builder) {
	for _, code := range sortedCodes(func(m *Meaning) bool { return len(m.Notes) > 0 }) {
		m := byCode[normal(code)]
		if code != m.Codes[0] {
			continue
		}
		fmt.Fprintf(b, "### %s\n\n", code)
		if others := m.Codes[1:]; len(others) > 0 {
			b.WriteString(wrapped("Also for `" + strings.Join(others, "`, `") + "`."))
		}
		for _, note := range m.Notes {
			b.WriteString(wrapped(note))
		}
		b.WriteString("\n")
	}
}

func writeSources(b *strings.Builder) {
	for _, source := range []string{docCommon, docHTTP, docSDK, docSNS, docSQS, docHere} {
		codes := sortedCodes(func(m *Meaning) bool { return m.Source == source })
		b.WriteString(wrapped(fmt.Sprintf("**%s**: `%s`", source, strings.Join(codes, "`, `"))))
	}
}

// sortedCodes are the codes of the meanings that are selected, in the order of the alphabet.
func sortedCodes(selected func(*Meaning) bool) (codes []string) {
	for i := range table {
		if selected(&table[i]) {
			codes = append(codes, table[i].Codes...)
		}
	}
	slices.SortFunc(codes, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return codes
}

// unbroken is a part of a text that stays in one line: a word, or code with its spaces.
var unbroken = regexp.MustCompile("(?:`[^`]*`|[^\\s`])+")

// wrapped is a text as an item of a list, in lines of at most 120 characters.
func wrapped(text string) string {
	line, lines := "-", []string(nil)
	for _, word := range unbroken.FindAllString(text, -1) {
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > 120 {
			lines, line = append(lines, line), " "
		}
		line += " " + word
	}
	return strings.Join(append(lines, line), "\n") + "\n"
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

func TestErrorsDocument_HasOneRowForEachCodeInTheOrderOfTheAlphabet(t *testing.T) {
	var inTable, inDocument []string
	for _, m := range table {
		for _, code := range m.Codes {
			inTable = append(inTable, strings.ToLower(code))
		}
	}
	text, _, found := strings.Cut(errorsDocument(), "\n## Retry\n")
	require.True(t, found)
	for _, row := range regexp.MustCompile("(?m)^\\| \\[?`([^`]+)`").FindAllStringSubmatch(text, -1) {
		inDocument = append(inDocument, strings.ToLower(row[1]))
	}
	require.ElementsMatch(t, inTable, inDocument)
	require.True(t, slices.IsSorted(inDocument))
}

func TestErrorsDocument_ExplainsEachMeaning(t *testing.T) {
	text := errorsDocument()
	_, sources, found := strings.Cut(text, "\n## Sources\n")
	require.True(t, found)
	for i := range table {
		m := &table[i]
		require.True(t, slices.ContainsFunc(classes, func(class treatment) bool { return class.of(m) }), "%v", m.Codes)
		require.NotEmpty(t, m.From, "%v", m.Codes)
		require.NotEmpty(t, m.Why, "%v", m.Codes)
		require.NotEmpty(t, m.Source, "%v", m.Codes)
		for _, code := range m.Codes {
			require.Contains(t, sources, "`"+code+"`")
		}
		if len(m.Notes) > 0 {
			require.Contains(t, text, "\n### "+m.Codes[0]+"\n")
		}
	}
	// The links of the column are references: TestDocuments_LinkToFilesAndHeadingsThatExist
	// does not see them.
	for _, treatment := range treatments {
		heading := strings.ReplaceAll(treatment.anchor, "-", " ")
		require.Regexp(t, "(?mi)^##+ "+heading+"$", text)
	}
}
