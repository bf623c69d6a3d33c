package schema_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestRelayRole_MayNotTouchEventsPartitionsOrTheRecord(t *testing.T) {
	pool := testenv.Database(t)
	relay := testenv.AsRole(t, pool, "outbox_relay")
	exec(t, pool, `INSERT INTO outbox.operation (kind, topic, by, reason) VALUES ('pause', 'orders', 'ada', 'a test')`)
	exec(t, relay, `UPDATE outbox.operation SET outcome = 'done'`) // how far it is, is the relay's to note
	for name, sql := range map[string]string{
		"write events":              `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`,
		"change events":             `UPDATE outbox.event SET payload = 'x'`,
		"delete events":             `DELETE FROM outbox.event`,
		"truncate events":           `TRUNCATE outbox.event`,
		"read a partition":          `SELECT * FROM outbox.event_default`,
		"write to a partition":      `INSERT INTO outbox.event_default (topic, type, payload) VALUES ('orders', 'T', 'x')`,
		"rewrite who did something": `UPDATE outbox.operation SET by = 'bob'`,
		"rewrite why":               `UPDATE outbox.operation SET reason = 'none'`,
		"delete the record":         `DELETE FROM outbox.operation`,
		"rewrite a receipt":         `UPDATE outbox.receipt SET message_id = 'x'`,
		"delete receipts":           `DELETE FROM outbox.receipt`,
		"truncate receipts":         `TRUNCATE outbox.receipt`,
		"rewrite what was dropped":  `UPDATE outbox.discarded SET operation = 0`,
		"delete a share":            `DELETE FROM outbox.share`,
		"make a share":              `INSERT INTO outbox.share (lane) VALUES (3)`,
		"list an event as dated":    `INSERT INTO outbox.dated VALUES (1, now(), 'orders', 1, now())`,
		"read the schema's version": `SELECT * FROM outbox.schema_version`,
		"make tables beside them":   `CREATE TABLE outbox.mine ()`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := relay.Exec(t.Context(), sql)
			require.ErrorContains(t, err, "permission denied")
		})
	}
	t.Run("drop events", func(t *testing.T) {
		_, err := relay.Exec(t.Context(), `DROP TABLE outbox.event`)
		require.ErrorContains(t, err, "must be owner")
	})
}
