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

// databaseReference is about what DATABASE_URL leads to.
const databaseReference = `
## The database

The relay needs a session that writes, speaks UTF-8 and is READ COMMITTED. It sets what a startup parameter can set, also behind
PgBouncer in transaction mode, and checks the rest: each time it connects, at the start, in ` + "`worker --check`" + ` and in ` + "`/readyz`" + `. The
error names the remedy. ` + "`starter migrate`" + ` checks the owner's session in the same way.

| setting | the relay |
|---|---|
| ` + "`client_encoding`" + ` | sets UTF8. The value in a URL, a role or a database does not count. In a SQL_ASCII database it sets SQL_ASCII and reads bytes as they are |
| ` + "`DateStyle`, `TimeZone`" + ` | sets ISO and UTC |
| a standby, or ` + "`default_transaction_read_only`" + ` | refuses the connection. If a connection becomes read-only later (SQLSTATE 25006), it connects anew |
| ` + "`default_transaction_isolation`" + ` | refuses the connection unless it is ` + "`read committed`" + `. PgBouncer in transaction mode cannot pass it on: use ` + "`ALTER ROLE … SET`" + ` |
| ` + "`statement_timeout`, `transaction_timeout`" + ` | lifts them for commands that take long, such as ` + "`replay`" + `. Warns if they are below 8 s. Retention keeps them |
| ` + "`lock_timeout`, `idle_in_transaction_session_timeout`" + ` | keeps them. Warns if they are below 1 s |
| row level security | refuses to start if rows can be hidden from its role. A policy for the role with ` + "`USING (true)`" + ` hides nothing. Producers need a policy of their own on ` + "`outbox.event`: `FOR INSERT … WITH CHECK (true)`" + `. It must not be forced on the owner (` + "`FORCE ROW LEVEL SECURITY`" + `) either: then every insert of an event fails, and retention too. ` + "`worker --check`" + ` says ` + "`failed security`" + ` and ` + "`starter migrate`" + ` warns. Remedy: the ` + "`ALTER TABLE`" + ` in the message |
| ` + "`connect_timeout`" + ` | 5 s for each host, unless the URL has another value. The connection that settles after an outage waits 2 s at most, for all hosts together |

An error that ` + "`statement_timeout`, `transaction_timeout`, `lock_timeout` or `idle_in_transaction_session_timeout`" + ` causes names it and its value.

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

` + "```sh" + `
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

Each line has a state, a check and a text. ` + "`failed`" + ` makes the exit status 1. ` + "`warning`" + ` and ` + "`unknown`" + ` do not. ` + "`unknown … not checked: see session`" + `
means that another check must succeed first.

| line | it means | remedy |
|---|---|---|
| ` + "`failed configuration`" + ` | the environment or the file has a mistake | the text names each one |
| ` + "`warning encryption`" + ` | ` + "`DATABASE_URL`" + ` allows plain text to another machine | ` + "`sslmode=verify-full`, see [security](security.md#on-the-wire)" + ` |
| ` + "`failed database`" + ` | the database does not answer, or has no outbox | ` + "`DATABASE_URL`; `starter migrate`" + ` |
| ` + "`failed session`" + ` | the server is a standby or read-only, a setting is not what the relay needs, or the encoding lacks a character of a topic's name | the ` + "`ALTER ROLE`" + ` in the text, or an address that leads to the writer |
| ` + "`warning session`" + ` | a timeout is shorter than the relay's statements may take, the encoding is SQL_ASCII, or a topic cannot be read as UTF-8 | the ` + "`ALTER ROLE`" + ` in the text, or a database with UTF8 |
| ` + "`failed rights`" + ` | the role lacks a right, or the outbox is older than the worker | ` + "`psql -f schema/roles.sql` and `GRANT outbox_relay TO …`, or `starter migrate`" + ` |
| ` + "`failed security`" + ` | row level security can hide rows from the role or from the owner | the ` + "`ALTER TABLE` or `ALTER ROLE`" + ` in the text |
| ` + "`failed state`" + ` | the sequence of ids is behind the events, as after logical replication or a restore of data only, or ` + "`outbox.round` or `outbox.sample`" + ` has lost its row | the ` + "`SELECT setval(…)`" + ` in the text, as the owner; ` + "`starter migrate`" + ` puts the rows back |
| ` + "`failed trigger`" + ` | the trigger of ` + "`outbox.event`" + ` is disabled or missing, so no inserted event becomes pending | the statement in the text, then ` + "`starter replay TOPIC --since … --until … --reason …`" + ` for each topic |
| ` + "`warning trigger`" + ` | a setting or a right lets events be inserted past the trigger | reset ` + "`session_replication_role`" + `, or revoke INSERT on the partitions from the roles that the text names |
| ` + "`warning sequence`" + ` | the sequence of ids has a cache, so events of a key can be published in another order than they were committed, or the role may not read the sequence | the ` + "`ALTER TABLE … SET CACHE 1` or the `GRANT`" + ` in the text |
| ` + "`warning TOPIC: route`" + ` | a topic has pending events, and ` + "`OUTBOX_CONFIG`" + ` has no topic of its name, so they wait. Events are counted up to 1,000, and 20 such topics are named | add the topic, or correct its name where the events are written; a name of similar spelling is in the text |
| ` + "`failed temporal`" + ` | Temporal does not answer, or does not know the namespace | ` + "`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`" + ` and credentials |
| ` + "`warning schedule`, `warning relay`" + ` | the schedule of the relay is absent or paused (the text has the operator's note), or no run of ` + "`Relay`" + ` is under way, or no worker takes its tasks: events wait. Before the first deployment this is as it should be | the command in the text |
| ` + "`warning maintenance`" + ` | the schedule of ` + "`Maintenance`" + ` is paused | the command in the text |
| ` + "`warning workers`" + ` | no worker polls the task queue. A worker that was killed counts for a minute longer | start one |
| ` + "`warning version`" + ` | the worker deployment has no current version, or no worker of the current version polls | ` + "`starter promote`" + ` |
| ` + "`warning version`" + ` | a version is current, and this worker has none, so that it gets no work | stop it, make it a version, or ` + "`temporal worker deployment set-current-version --unversioned`" + ` |
| ` + "`unknown schedule`" + ` and the like | Temporal did not tell, for want of rights, say | read rights in the namespace |
| ` + "`failed TOPIC: destination`" + ` | the destination was not found, or must not be read | the file, or the worker's role in AWS: [security](security.md#in-aws) |
| ` + "`failed TOPIC: publish`" + ` | publishing is denied | the worker's role or the destination's policy. ` + "`unknown`" + ` means that AWS does not say without a message |
| ` + "`warning TOPIC: subscription`" + ` | subscriptions of the SNS topic have no raw message delivery, so their consumers get [an envelope](delivery.md#what-arrives) | turn it on, or open the envelope |
| ` + "`unknown TOPIC: subscription`" + ` | the worker may not list or read the topic's subscriptions | none, or [two permissions](security.md#in-aws) |
`

// The reference is made from the code: go test ./worker/service -update.
func TestReference_OfTheConfigurationIsThatOfTheCode(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Configuration of the worker\n\nMade from the code by `go test ./worker/service -update`, and checked by the same test.\n\n" +
		"## Environment\n\n| variable | default | |\n|---|---|---|\n")
	rows(&b, reflect.TypeFor[settings](), "env", "envDefault")
	b.WriteString("\nTemporal's connection comes from `temporal.toml` and `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY` and " +
		"`TEMPORAL_TLS_…`, AWS's from the SDK's default chain, where traces go from the standard `OTEL_…` variables ([tracing](tracing.md)).\n\n" +
		"## The file that `OUTBOX_CONFIG` names\n\nUnder `topics`, for each topic by its name:\n\n| key | default | |\n|---|---|---|\n")
	rows(&b, reflect.TypeFor[topic](), "yaml", "default")
	b.WriteString("\nDurations have units, also days: `90s`, `15m`, `2h`, `1d`, `1d12h`. A key that is not known, a key that comes twice and a second YAML document\nare refused. A name is read as it is written: `012:` and `sqs: 012` are not 12 or 10. An alias stands for the last anchor before it.\n" +
		"Everything that is wrong, up to 200 mistakes, is named at once, with its line, topic and key. Aliases may stand for a million keys in all.\n" +
		"`worker --check` checks it without starting.\n" +
		"How much is in flight, `--linger` and retention belong to the schedule: [starter](starter.md).\n" + databaseReference)
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
