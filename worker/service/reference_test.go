package service

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/activities"
)

var update = flag.Bool("update", false, "write the reference instead of comparing it")

const reference = "../../docs/configuration.md"

// memoryReference describes what bounds the worker's memory.
const memoryReference = `## Memory

All batches and shares of a worker have one budget for payloads, ` + "`OUTBOX_PAYLOAD_BUDGET`" + `. An event counts three times its size, from before the worker
loads its payload until its destination has answered: the payload, the request with it, and the buffers that it passes. A topic may hold three quarters of the budget if it is
alone, and an equal part beside others. So a destination that hangs leaves a part for other topics. A worker exceeds the budget by one event at
most. A larger budget lets more large payloads be under way at once: with round trips of 15 ms to AWS and payloads of 200 KiB, each MiB of the
budget allows at most 22 MiB of payloads a second.

The worker also bounds its whole memory, with the memory limit of Go's runtime: above that limit, it collects garbage more often. The limit is
the larger of two values:

- 96 MiB and twice the payload budget, so 144 MiB by default
- three times the memory that is in use after a collection. This is the larger value only with many topics

In a container with a memory limit, the worker's limit is at most 90 % of the container's. The worker reads the container's limit at its start
(cgroup v1 and v2), and logs both as ` + "`msg=memory`" + `. If you raise the budget, also raise the container's limit: 90 % of it must be more than 96 MiB
and twice the budget.

If you set ` + "`GOMEMLIMIT`" + `, the worker uses your value instead. If you set ` + "`GOGC`" + `, it replaces the worker's own 400.

## Rate of sending

A worker finds by itself how many requests a destination should have in flight, at most 96: it raises the number while the destination accepts more
events, and stays a little below the quota of a destination that throttles ([decision 27](decisions/027-sending-finds-its-level.md)). You need no setting.
` + "`outbox_requests_limit`" + ` shows the number. You can lower the rate:

| setting | limits |
|---|---|
| ` + "`maxPerSecond`" + ` of a topic | messages a second of the topic, over all workers. The topic then has batches of its own |
| ` + "`starter schedule --concurrency N`" + ` | requests in flight to one destination: N for the shares of a worker, and N for each batch |
| ` + "`starter schedule --slots N`" + ` | batches in flight, over all topics. It does not limit shared lanes |

`

// sharedReference describes shared lanes, the default of OUTBOX_BATCHES.
const sharedReference = `## Shared lanes

By default (` + "`OUTBOX_BATCHES=shared`" + `), a worker holds *shares*. A [share](concepts.md#publishing) is a lane number of all topics. The worker
publishes the events in its shares without claims and batches, however many topics there are ([decision 26](decisions/026-shares.md)). Batches of one
topic publish topics with a problem. With ` + "`OUTBOX_BATCHES=topics`" + `, a claim finds the pending events of a topic, and a batch publishes them, as in
version 0.1.0. Then more than about 200 topics that have events every few seconds make the median latency exceed one second.

- **Way back.** If shared lanes cause a problem, set ` + "`OUTBOX_BATCHES=topics`" + ` and restart the workers, one after the other. Workers of both modes,
  and workers of version 0.1.0, may run together. The schedule stays as it is. To return to version 0.1.0, see
  [go back](guide.md#go-back). While workers of both modes run, a worker may wait minutes for its seat, and batches publish its events.
  ` + "`worker --check`" + ` prints the mode in its first line: a variable whose name has a typing error has no effect.
- **Seat.** A worker may hold shares while it has a *seat*: an activity of the run of ` + "`Relay`" + `, with the summary "lanes of all topics · worker seat".
  The seat lasts until the run ends, and the next run gives a new one. Workers that have a seat divide the 16 shares evenly. If you have more than 16
  workers, the others only publish batches.
- **No seat.** If no worker has held a share for a second, claims take its lanes, and batches publish the events. So events wait only if no run of
  ` + "`Relay`" + ` is under way. Then ` + "`starter status`" + ` names the problem.
- **No run.** A worker keeps its shares for 25 seconds after its seat has ended. If you pause the schedule, publishing ends half a minute after the end of
  the last run. If you terminate the run, a worker may not notice before its next heartbeat, so publishing can go on for up to a minute. To stop a
  topic at once, run ` + "`starter pause TOPIC`" + `.
- **Topics with batches of their own.** Batches always publish topics with ` + "`maxPerSecond`" + ` or ` + "`onPoison: block`" + `, and those without a route. They also publish topics that are
  paused, in recovery or in an operation, or whose destination refuses events, until that is over
  ([decision 29](decisions/029-a-topic-leaves-the-shares.md)). The log and ` + "`starter status`" + ` name each topic that leaves the shares, with the
  [cause](runbook.md#a-topic-is-apart). ` + "`--slots`" + ` and ` + "`--linger`" + ` of ` + "`starter schedule`" + ` only affect batches.
- **A key with too many events.** A FIFO destination gets one event of a key after the other: at 15 ms for each request, about 66 a second. A worker has at
  most 100 unanswered events of such a key in hand. It leaves the others pending, and reads them, in order, when half of these are accepted. So other keys
  of the lane do not wait for this one. With ` + "`OUTBOX_BATCHES=topics`" + `, they do.
- **A killed worker.** Other workers take its shares after four seconds. At most 1,000 events arrive again, and those of its batches
  ([repetitions](delivery.md#when-an-event-comes-twice)). ` + "`starter status`" + ` shows the worker for another minute, with the lanes ` + "`none`" + `. Its seat stays
  in *Pending Activities* until Temporal notices that the heartbeats are missing.

To see which worker holds which lanes:

| look at | you see |
|---|---|
| the run of ` + "`Relay`" + ` in the Temporal UI, *Pending Activities* | the lanes, topics and events of each seat, as of its last heartbeat (every 30 s) |
| ` + "`outbox_shares_held`" + `, ` + "`outbox_worker_seated`" + ` | how many shares each worker holds, and whether it has a seat |
| ` + "`starter status`" + `, second table | the lanes of each worker, whether it has a seat, and when it was last seen |
| ` + "`starter status`" + `, columns ` + "`LEASED`" + ` and ` + "`APART`" + ` | how many of the 16 lanes of a topic its batches hold, and why batches publish it |
| ` + "`starter where`" + `, for a pending event | ` + "`lane … held by worker …`" + ` |

### How many topics

Idle topics cost little in shared lanes. Keep the number of topics of an outbox below 2,000:

- **Metrics.** Each topic has about 50 series. A worker with 1,000 topics showed 48,787 series, 2.6 MiB in each scrape. Above 2,000 topics, a
  metric counts the further topics together, and their alerts do not fire. Metrics with a second label reach that limit earlier.
- **Look-ups.** A worker looks up each destination when it starts and every five minutes: three requests for a queue that is given by its name. With 5,000
  topics on the emulator, a worker that began all look-ups at once timed out for 4,941 topics. Some topics left the shared lanes, and in a burst of
  5,000 events 1,879 were still pending after a minute. A worker now begins at most 512 at once; we have not measured 5,000 topics since. With 1,000
  topics, the same burst of an event for each topic was published in 2.7 s.
- **Memory.** A worker with 1,000 topics used 161 MiB (168 at most). With 5,000, it used 209 MiB, and 513 at most during the look-ups.
- **Reads of all topics.** ` + "`starter status`" + ` took 0.3 s with 1,000 topics. The sample for the Temporal UI and the metrics takes at most a twentieth
  of the time. So with thousands of topics it comes less often than every ten seconds.
- **Topics that always have batches of their own** (` + "`maxPerSecond`" + `, ` + "`onPoison: block`" + `): the statement that renews leases reads their lanes twice a
  second. For 200 such topics it took about 30 ms. With hundreds of busy ones, the 16 slots of a run are the limit.
- **Histories and heartbeats** do not grow with the topics. The end of a seat names its 200 busiest topics, an answer of ` + "`ClaimBatches`" + ` at most 30.

These figures are from one run on two busy cores on 30 November 2026, with the emulator instead of AWS: 20 topics at 50 events/s, the others with an
event each 5 s. A worker then used 0.1 of a core, and 0.05 without events.

`

// databaseReference describes the database of DATABASE_URL and the results of worker --check.
const databaseReference = `
## The database

The relay needs a session that writes, speaks UTF-8 and is READ COMMITTED. It sets what a startup parameter can set, also behind
PgBouncer in transaction mode, and checks the rest: each time it connects, at the start, in ` + "`worker --check`" + ` and in ` + "`/readyz`" + `. The
error names the remedy. ` + "`starter migrate`" + ` checks the owner's session in the same way.

| setting | the relay |
|---|---|
| ` + "`client_encoding`" + ` | sets UTF8, or SQL_ASCII in a SQL_ASCII database. A value in a URL, a role or the database has no effect |
| ` + "`DateStyle`" + `, ` + "`TimeZone`" + ` | sets ISO and UTC |
| a standby, or ` + "`default_transaction_read_only`" + ` | refuses the connection. If a connection becomes read-only later (SQLSTATE 25006), it connects anew |
| ` + "`default_transaction_isolation`" + ` | refuses the connection unless it is ` + "`read committed`" + ` |
| ` + "`statement_timeout`" + `, ` + "`transaction_timeout`" + ` | lifts them for long commands, such as ` + "`replay`" + `. Warns below 8 s. Retention keeps them |
| ` + "`lock_timeout`" + `, ` + "`idle_in_transaction_session_timeout`" + ` | keeps them. Warns if they are below 1 s |
| row level security | does not start if a policy can hide rows from its role |
| ` + "`connect_timeout`" + ` | 5 s for each host, unless the URL has another value |

PgBouncer in transaction mode cannot pass on ` + "`default_transaction_isolation`" + `: use ` + "`ALTER ROLE … SET`" + `. The connection that settles after an
outage waits at most 2 s, for all hosts together.

**Frequent reads.** A worker with shared lanes has up to three direct connections more, whose sessions keep the plans of the statements that it runs most often. It
needs no setting. Behind a pooler, under row level security, and with more than 50 partitions of ` + "`outbox.event`" + `, the worker runs these statements on its other
connections, and PostgreSQL plans each of them anew ([decision 30](decisions/030-plans-that-are-kept.md)).

An error that ` + "`statement_timeout`" + `, ` + "`transaction_timeout`" + `, ` + "`lock_timeout`" + ` or ` + "`idle_in_transaction_session_timeout`" + ` causes names it and its value.

**Row level security.** A policy for the relay's role with ` + "`USING (true)`" + ` hides no rows. Producers need a policy of their own on
` + "`outbox.event`" + `: ` + "`FOR INSERT … WITH CHECK (true)`" + `. Do not force row level security on the owner (` + "`FORCE ROW LEVEL SECURITY`" + `): every insert
of an event would fail, and so would retention. ` + "`worker --check`" + ` then prints ` + "`failed security`" + `, and ` + "`starter migrate`" + ` warns. Both messages
contain the ` + "`ALTER TABLE`" + ` that repairs it.

**Encodings.** UTF8 is best. From any other encoding that PostgreSQL can convert, such as LATIN1, texts arrive as UTF-8. PostgreSQL does
not check the texts of a SQL_ASCII database, so an event there may hold bytes that are not UTF-8. The worker warns of such a database. The
events of a topic whose name is not UTF-8 become dead letters, because no configuration can name it. In a database that is not UTF8,
characters outside ASCII in the reason of a dead letter are stored as ` + "`?`" + `.

Other encodings have bytes that PostgreSQL stores and cannot convert, such as 81 in WIN1252. The table refuses an event with such a byte. If
one is there from before, it becomes a dead letter, ` + "`InvalidCharacter`" + `, whose text names the column and the byte. If the byte is in the topic,
the dead letter has the topic's name with that byte in octal, such as ` + "`or\\201ders`" + `, and ` + "`worker --check`" + ` warns while such a topic has events.

**Failover.** Use the address that always leads to the writer:

- Aurora: the cluster (writer) endpoint, not a reader or instance endpoint.
- RDS Multi-AZ with one standby: the endpoint of the DB instance (it moves with the failover).
- RDS Multi-AZ cluster: the cluster endpoint.

` + "```" + `sh
# The cluster endpoint of Aurora.
DATABASE_URL='postgres://relay:…@shop.cluster-c1x2y3.eu-central-1.rds.amazonaws.com:5432/shop?sslmode=verify-full&sslrootcert=/etc/rds/global-bundle.pem'
# Several servers of your own: the relay tries them in turn and takes the one that can write.
DATABASE_URL='postgres://relay:…@db1:5432,db2:5432/shop?sslmode=verify-full'
` + "```" + `

You need not add ` + "`target_session_attrs=read-write`" + `: it is the relay's default, and ` + "`standby`" + ` or ` + "`read-only`" + ` is refused. After a failover the
name leads to the new writer within seconds. Until then ` + "`/readyz`" + ` says that the server is a standby, and no connection to it is kept; flow
resumes within seconds of the writer being back. RDS Proxy and PgBouncer keep connections of their own. If PgBouncer still leads to
the old writer after a failover, have it connect anew (` + "`RECONNECT`" + ` on its console). With asynchronous replication a failover
[loses commits](reliability.md#commits-that-are-lost-with-a-primary).

## Results of ` + "`worker --check`" + `

Each line has a state, the name of a check and a text. ` + "`failed`" + ` makes the exit status 1. ` + "`warning`" + ` and ` + "`unknown`" + ` do not. ` + "`unknown … not checked: see session`" + `
means that another check must succeed first. With many topics, print the problems only: ` + "`worker --check | grep -E '^(failed|warning)'`" + `.

**Configuration and database**

| line | meaning | remedy |
|---|---|---|
| ` + "`failed configuration`" + ` | the environment or the file has a mistake | the text names each mistake |
| ` + "`warning encryption`" + ` | ` + "`DATABASE_URL`" + ` allows plain text to another machine | ` + "`sslmode=verify-full`" + `, see [security](security.md#on-the-wire) |
| ` + "`failed database`" + ` | the database does not answer, or has no outbox | correct ` + "`DATABASE_URL`" + `; ` + "`starter migrate`" + ` |
| ` + "`failed session`" + ` | the session does not fit, see below | the ` + "`ALTER ROLE`" + ` in the text, or the writer's address |
| ` + "`warning session`" + ` | the session may cause errors, see below | the ` + "`ALTER ROLE`" + ` in the text, or a database with UTF8 |
| ` + "`failed rights`" + ` | the role lacks a right, or the outbox is older than the worker | roles, see below; ` + "`starter migrate`" + ` |
| ` + "`failed security`" + ` | row level security can hide rows from the role or the owner | the ` + "`ALTER TABLE`" + ` or ` + "`ALTER ROLE`" + ` in the text |
| ` + "`failed state`" + ` | the sequence of ids is behind the events, or a counter has lost its row | see below |
| ` + "`failed trigger`" + ` | the trigger of ` + "`outbox.event`" + ` is disabled or missing: no new event becomes pending | see below |
| ` + "`warning trigger`" + ` | a setting or a right lets programs insert events without the trigger | see below |
| ` + "`warning sequence`" + ` | the sequence of ids has a cache, or the role may not read it | the ` + "`ALTER TABLE … SET CACHE 1`" + ` or ` + "`GRANT`" + ` in the text |
| ` + "`warning TOPIC: route`" + ` | the topic has pending events and is not in ` + "`OUTBOX_CONFIG`" + ` | add it, or correct its name in the producer |

- **` + "`failed session`" + `**: the server is a standby or read-only, a setting is not as the relay needs it, or the encoding lacks a character of
  a topic's name.
- **` + "`warning session`" + `**: a timeout is shorter than the relay's statements may take, the encoding is SQL_ASCII, or a topic cannot be read as
  UTF-8.
- **` + "`failed rights`" + `**: create the roles with ` + "`psql -f schema/roles.sql`" + `, then ` + "`GRANT outbox_relay TO …`" + `.
- **` + "`failed state`" + `**: this happens after logical replication or after a restore of data only. Run the ` + "`SELECT setval(…)`" + ` in the text as the
  owner. If ` + "`outbox.round`" + `, ` + "`outbox.sample`" + ` or ` + "`outbox.share`" + ` has lost its row, ` + "`starter migrate`" + ` inserts it again.
- **` + "`failed trigger`" + `**: run the statement in the text. Then run ` + "`starter replay TOPIC --since … --until … --reason …`" + ` for each topic.
- **` + "`warning trigger`" + `**: reset ` + "`session_replication_role`" + `, or revoke INSERT on the partitions from the roles that the text names.
- **` + "`warning sequence`" + `**: with a cache, events of a key can be published in another order than they were committed.
- **` + "`warning TOPIC: route`" + `**: at most 20 such topics are named, and events are counted up to 1,000. The text suggests a similar name.

**Temporal**

| line | meaning | remedy |
|---|---|---|
| ` + "`failed temporal`" + ` | Temporal does not answer, or does not know the namespace | ` + "`TEMPORAL_ADDRESS`" + `, ` + "`TEMPORAL_NAMESPACE`" + ` and credentials |
| ` + "`warning schedule`" + ` | the relay's schedule is missing or paused; the text has the operator's note | the command in the text |
| ` + "`warning relay`" + ` | no run of ` + "`Relay`" + ` is under way, or no worker takes its tasks: events wait | the command in the text |
| ` + "`warning maintenance`" + ` | the schedule of ` + "`Maintenance`" + ` is paused | the command in the text |
| ` + "`warning workers`" + ` | no worker polls the task queue. A worker that has stopped or was killed counts for another minute | start a worker |
| ` + "`warning version`" + ` | the deployment has no current version, or no worker of the current version polls | ` + "`starter promote`" + ` |
| ` + "`warning version`" + ` | a version is current, but this worker has no version and gets no work | see below |
| ` + "`unknown schedule`" + ` and similar | Temporal did not answer this question, for example because rights are missing | read rights in the namespace |

- **` + "`warning schedule`" + `, ` + "`warning relay`" + `** are normal before the first deployment.
- **` + "`warning version`" + `** of a worker without a version: stop the worker, give it a version, or run
  ` + "`temporal worker deployment set-current-version --unversioned`" + `.

**Destinations**

| line | meaning | remedy |
|---|---|---|
| ` + "`failed TOPIC: destination`" + ` | the destination was not found, or the worker may not read it | the file, or [the worker's role](security.md#in-aws) |
| ` + "`failed TOPIC: publish`" + ` | publishing is denied | the worker's role, or the destination's policy |
| ` + "`unknown TOPIC: publish`" + ` | AWS does not tell without a message. This is usual for SQS queues | none |
| ` + "`warning TOPIC: subscription`" + ` | subscriptions have no raw message delivery and get [an envelope](delivery.md#what-arrives) | turn it on |
| ` + "`unknown TOPIC: subscription`" + ` | the worker may not read the topic's subscriptions | none, or [two permissions](security.md#in-aws) |
| ` + "`ok TOPIC: mode`" + ` | a FIFO queue: whether it has high throughput, or accepts 300 requests a second for all keys together | high throughput, if you need more |
| ` + "`unknown TOPIC: mode`" + ` | the worker may not read the queue's attributes | none, or ` + "`sqs:GetQueueAttributes`" + ` |
`

// The reference is made from the code: go test ./worker/service -update.
func TestReference_OfTheConfigurationIsThatOfTheCode(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Configuration of the worker\n\nMade from the code by `go test ./worker/service -update`, and checked by the same test.\n\n" +
		"## Environment\n\n| variable | default | |\n|---|---|---|\n")
	rows(&b, reflect.TypeFor[settings](), "env", "envDefault")
	b.WriteString("\nTemporal's connection comes from `temporal.toml` and `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY` and " +
		"`TEMPORAL_TLS_…`, AWS's from the SDK's default chain, where traces go from the standard `OTEL_…` variables ([tracing](tracing.md)).\n\n" +
		memoryReference + sharedReference +
		"## The file that `OUTBOX_CONFIG` names\n\nUnder `topics`, for each topic by its name:\n\n| key | default | |\n|---|---|---|\n")
	rows(&b, reflect.TypeFor[topic](), "yaml", "default")
	b.WriteString("\nDurations have units, also days: `90s`, `15m`, `2h`, `1d`, `1d12h`. The worker refuses an unknown key, a repeated key and a second\nYAML document. It reads names as they are written: `012:` and `sqs: 012` are not 12 or 10. An alias stands for the last anchor before it.\n" +
		"All aliases together may stand for at most a million keys. The worker prints all mistakes at once, up to 200, each with its line, topic and key.\n" +
		"`worker --check` checks the file without starting the worker.\n" +
		"The schedule has the settings for batches (`--slots`, `--linger`), the ceiling `--concurrency`, and retention: [starter](starter.md).\n" + databaseReference)
	if *update {
		require.NoError(t, os.WriteFile(reference, []byte(b.String()), 0o600))
	}
	have, err := os.ReadFile(reference)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(have), "run go test ./worker/service -update")
	require.EqualValues(t, "1h0m0s", fmt.Sprint(activities.DefaultGiveUpAfter), "the reference says 1h")
}

// rows describes the fields of a struct that have a name.
func rows(b *strings.Builder, of reflect.Type, name, standard string) {
	for i := range of.NumField() {
		tag := of.Field(i).Tag
		if tag.Get(name) == "" {
			continue
		}
		value := "none"
		switch {
		case tag.Get("required") != "":
			value = "required"
		case tag.Get(standard) != "":
			value = "`" + tag.Get(standard) + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", tag.Get(name), value, cmp.Or(tag.Get("doc"), "UNDOCUMENTED"))
	}
}

func TestReference_NamesEverySetting(t *testing.T) {
	have, err := os.ReadFile(reference)
	require.NoError(t, err)
	require.NotContains(t, string(have), "UNDOCUMENTED")
	help := root("worker").Long
	for i := range reflect.TypeFor[settings]().NumField() {
		if name := reflect.TypeFor[settings]().Field(i).Tag.Get("env"); name != "" {
			require.Contains(t, help, name, "worker --help")
		}
	}
}
