package schema_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// PostgreSQL plans each CHECK anew in every INSERT.
func TestEventCheck_IsNoConstraint(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `SELECT outbox.make_partition('2031-01-01')`)
	require.Zero(t, query[int](t, pool, `
		SELECT count(*) FROM pg_constraint
		WHERE contype = 'c' AND conrelid IN (SELECT 'outbox.event'::regclass UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass)`))
}

func TestEventCheck_LooksAtEveryRowThatAStatementWrites(t *testing.T) {
	pool := testenv.Database(t)
	for name, statement := range map[string]string{
		"the last of three": `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x'), ('orders', 'T', 'x'), ('orders', 'T', '')`,
		"one of a thousand": `INSERT INTO outbox.event (topic, type, payload) SELECT 'orders', 'T', CASE n WHEN 500 THEN '' ELSE 'x' END FROM generate_series(1, 1000) n`,
		"the second INSERT": `WITH first AS (INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x'))
		                      INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', '')`,
		"the first INSERT": `WITH first AS (INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', ''))
		                     INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`,
		"no conflict": `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', '') ON CONFLICT DO NOTHING`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pool.Exec(t.Context(), statement)
			require.ErrorContains(t, err, "event_payload_is_not_empty")
		})
	}
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Conn().PgConn().CopyFrom(t.Context(), strings.NewReader("orders\tT\tx\norders\tT\t\n"), `COPY outbox.event (topic, type, payload) FROM STDIN`)
	require.ErrorContains(t, err, "event_payload_is_not_empty")
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM outbox.status`))
}

func TestEventCheck_NamesTheRuleAndThePlace(t *testing.T) {
	pool := testenv.Database(t)
	const insert = `INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes, created_at)
	                VALUES ($1, $2, $3, $4, $5, $6, $7::text::timestamptz)`
	long := strings.Repeat("x", 2000)
	for name, c := range map[string]struct {
		change     func(column map[string]string)
		constraint string // empty: the event is valid
		detail     string
	}{
		"valid":                 {func(map[string]string) {}, "", ""},
		"no topic":              {set("topic", ""), "event_topic_is_1_to_256_bytes", "topic has 0 bytes."},
		"a long topic":          {set("topic", long), "event_topic_is_1_to_256_bytes", "topic has 2000 bytes."},
		"a long key":            {set("key", long), "event_key_is_at_most_1024_bytes", "key has 2000 bytes."},
		"no type":               {set("type", ""), "event_type_is_1_to_256_bytes", "type has 0 bytes."},
		"a tab in the type":     {set("type", "Mü\tller"), "event_type_has_valid_characters", "type has U+0009 at byte 3."},
		"U+FFFF in the type":    {set("type", "a\uffff"), "event_type_has_valid_characters", "type has U+FFFF at byte 1."},
		"DEL in the type":       {set("type", "a\x7f"), "", ""},
		"no content type":       {set("content_type", ""), "event_content_type_is_1_to_256_bytes", "content_type has 0 bytes."},
		"a line feed in it":     {set("content_type", "text\n"), "event_content_type_has_valid_characters", "content_type has U+000A at byte 4."},
		"no payload":            {set("payload", ""), "event_payload_is_not_empty", "payload is empty."},
		"a payload of lines":    {set("payload", "a\tb\r\nc"), "", ""},
		"not an object":         {set("attributes", `["a"]`), "event_attributes_are_valid", "attributes is not a JSON object."},
		"a number":              {set("attributes", `{"a": 1}`), "event_attributes_are_valid", `Attribute "a": the value is not a string.`},
		"an empty value":        {set("attributes", `{"a": ""}`), "event_attributes_are_valid", `Attribute "a": the value is empty.`},
		"AWS's prefix":          {set("attributes", `{"aws.a": "1"}`), "event_attributes_are_valid", `Attribute "aws.a": AWS does not allow this name.`},
		"a space in a name":     {set("attributes", `{"a b": "1"}`), "event_attributes_are_valid", `Attribute "a b": AWS does not allow this name.`},
		"one of the relay's":    {set("attributes", `{"event_id": "1"}`), "event_attributes_are_valid", `Attribute "event_id": the name is used by the relay.`},
		"seven":                 {set("attributes", `{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1","g":"1"}`), "event_attributes_are_valid", "There are more than six attributes beside traceparent."},
		"six and a traceparent": {set("attributes", `{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1","traceparent":"1"}`), "", ""},
		"a tab in a value":      {set("attributes", `{"a": "1", "b": "é\t"}`), "event_attributes_are_valid", `Attribute "b": the value has U+0009 at byte 2.`},
		"a control character":   {set("attributes", `{"a": "\u000b"}`), "event_attributes_are_valid", `Attribute "a": the value has U+000B at byte 0.`},
		"minus infinity":        {set("created_at", "-infinity"), "event_created_at_is_from_1970_to_2269", "created_at is -infinity."},
		"infinity":              {set("created_at", "infinity"), "event_created_at_is_from_1970_to_2269", "created_at is infinity."},
		"the year 1":            {set("created_at", "0001-01-01 00:00Z"), "event_created_at_is_from_1970_to_2269", ""},
		"milliseconds":          {set("created_at", "57874-01-01 00:00Z"), "event_created_at_is_from_1970_to_2269", ""},
		"an unset time":         {set("created_at", "1970-01-01 00:00Z"), "event_created_at_is_from_1970_to_2269", ""},
		"the first moment":      {set("created_at", "1970-01-01 00:00:00.000001Z"), "", ""},
		"the last moment":       {set("created_at", "2269-12-31 23:59:59.999999Z"), "", ""},
	} {
		// Most events of the default content type are valid without a call of the function.
		for _, contentType := range []string{"application/json", "text/plain"} {
			t.Run(name+", "+contentType, func(t *testing.T) {
				column := map[string]string{
					"topic": "orders", "key": "k", "type": "T", "payload": "x", "content_type": contentType, "attributes": `{}`, "created_at": "now",
				}
				c.change(column)
				_, err := pool.Exec(t.Context(), insert, column["topic"], column["key"], column["type"], column["payload"],
					column["content_type"], column["attributes"], column["created_at"])
				if c.constraint == "" {
					require.NoError(t, err)
					return
				}
				var refused *pgconn.PgError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, []string{"23514", "outbox", "event", c.constraint}, []string{refused.Code, refused.SchemaName, refused.TableName, refused.ConstraintName})
				require.ErrorContains(t, err, `violates check constraint "`+c.constraint+`"`)
				if c.detail != "" {
					require.Equal(t, c.detail, refused.Detail)
				}
			})
		}
	}
}

func set(column, value string) func(map[string]string) {
	return func(columns map[string]string) { columns[column] = value }
}

// The Go package and the table have one set of rules for what becomes an attribute.
func TestEventCheck_AgreesWithTheWriterOnEveryKindOfCharacter(t *testing.T) {
	pool := testenv.Database(t)
	characters := []rune{0x20, '"', '\\', 0x7f, 0x80, 0x85, 0xd7ff, 0xe000, 0xfffd, 0xfffe, 0xffff, 0x10000, 0x1fffe, 0x10ffff}
	for r := rune(1); r < 0x20; r++ {
		characters = append(characters, r)
	}
	for _, r := range characters {
		for name, e := range map[string]outbox.Event{
			"type":         {Type: "a" + string(r)},
			"JSON's type":  {Type: "a" + string(r), ContentType: "application/json"},
			"content type": {Type: "T", ContentType: "a" + string(r)},
			"attribute":    {Type: "T", Attributes: map[string]string{"a": "é" + string(r)}},
		} {
			e.Topic, e.Payload = "orders", "x"
			if e.ContentType == "" {
				e.ContentType = "text/plain"
			}
			if e.Attributes == nil {
				e.Attributes = map[string]string{}
			}
			_, err := pool.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload, content_type, attributes) VALUES ($1, $2, $3, $4, $5)`,
				e.Topic, e.Type, e.Payload, e.ContentType, e.Attributes)
			require.Equal(t, e.Validate() == nil, err == nil, "U+%04X in the %s: the writer says %v, the table %v", r, name, e.Validate(), err)
		}
	}
}

// With standard_conforming_strings off, a backslash in a plain string is an escape. And
// a service may have tables of its own before pg_catalog.
func TestEventCheck_HoldsInAnySession(t *testing.T) {
	pool := testenv.Database(t)
	for _, setting := range []string{
		"standard_conforming_strings = off", "search_path = public, pg_catalog", "timezone = 'Asia/Kathmandu'", "datestyle = 'German'",
	} {
		t.Run(setting, func(t *testing.T) {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), `SET LOCAL `+setting)
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload, attributes) VALUES ('orders', 'T', 'x', '{"a.b": "c"}')`)
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload, attributes) VALUES ('orders', 'T', 'x', '{"a..b": "c"}')`)
			require.ErrorContains(t, err, "event_attributes_are_valid")
		})
	}
}

// The database of a hardened server lets PUBLIC execute nothing.
func TestMigrate_LetsTheSameRolesInsertAsBefore(t *testing.T) {
	pool := testenv.Database(t)
	producer := testenv.AsRole(t, pool, "outbox_producer")
	migrateUntil(t, pool, "valid_events")
	exec(t, pool, `GRANT USAGE ON SCHEMA outbox TO outbox_producer; GRANT INSERT (topic, type, payload, attributes) ON outbox.event TO outbox_producer`)
	exec(t, pool, `REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC`)
	exec(t, pool, `ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`)
	other := makeRole(t, pool)
	exec(t, pool, fmt.Sprintf(`GRANT USAGE ON SCHEMA outbox TO %[1]s; GRANT INSERT (topic, type, payload, attributes) ON outbox.event TO %[1]s;
	                           GRANT EXECUTE ON FUNCTION outbox.attributes_are_valid(jsonb) TO %[1]s`, other))
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)

	const insert = `INSERT INTO outbox.event (topic, type, payload, attributes) VALUES ('orders', 'T', 'x', '{"a": "b"}')`
	exec(t, producer, insert)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `SET LOCAL ROLE `+other)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), insert)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT outbox.make_partition('2031-01-01')`)
	require.ErrorContains(t, err, "permission denied")
}

// makeRole makes a role of the test's own that the database's owner may act as.
func makeRole(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	name := query[string](t, pool, `SELECT 'role_of_' || current_database()`)
	exec(t, pool, fmt.Sprintf(`CREATE ROLE %[1]s NOLOGIN; GRANT %[1]s TO CURRENT_USER`, name))
	t.Cleanup(func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, name))
		if err != nil {
			t.Errorf("drop the test's role: %v", err)
		}
	})
	return name
}

// Rows from before the rules stay, and so does everything that is done with them.
func TestMigrate_LeavesEventsThatBreakANewRule(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "valid_events")
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload, created_at) VALUES
		('orders', E'a\ttab', 'x', now()), ('orders', 'T', 'x', '-infinity'), ('orders', 'T', 'x', 'infinity'),
		('orders', 'T', 'x', '0001-01-01 00:00Z'), ('orders', 'T', 'x', '200000-01-01 00:00Z')`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, 5, query[int](t, pool, `SELECT count(*) FROM outbox.event`))
	require.Equal(t, 5, query[int](t, pool, `SELECT count(*) FROM outbox.status WHERE state = 'pending'`))
}

// A text that cannot become UTF-8 can never be published.
func TestEventCheck_RefusesWhatCannotBecomeUTF8(t *testing.T) {
	for encoding, strange := range map[string]string{"WIN1252": "a\x81", "WIN1257": "a\xa1", "EUC_JP": "a\xa9\xa1", "EUC_KR": "a\xc9\xa1"} {
		t.Run(encoding, func(t *testing.T) {
			pool := openURL(t, testenv.EncodedDatabaseURL(t, encoding)+"&client_encoding="+encoding)
			const insert = `INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes)
			                VALUES ($1, $2, $3, $4, $5, jsonb_build_object('a', $6::text))`
			values := func() map[string]string {
				return map[string]string{"topic": "orders", "key": "k", "type": "T", "payload": "x", "content_type": "text/plain", "attributes": "b"}
			}
			for column := range values() {
				v := values()
				v[column] = strange
				_, err := pool.Exec(t.Context(), insert, v["topic"], v["key"], v["type"], v["payload"], v["content_type"], v["attributes"])
				if column != "content_type" && column != "attributes" {
					_, plain := pool.Exec(t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, $3, $4)`,
						v["topic"], v["key"], v["type"], v["payload"])
					require.Equal(t, err, plain, "with the defaults of the other columns")
				}
				var refused *pgconn.PgError
				require.ErrorAs(t, err, &refused, column)
				constraint := "event_" + column + "_has_valid_characters"
				if column == "attributes" {
					constraint = "event_attributes_are_valid"
				}
				require.Equal(t, []string{"23514", constraint}, []string{refused.Code, refused.ConstraintName})
				require.Contains(t, refused.Detail, column+": ")
				require.Contains(t, refused.Detail, encoding)
				require.NotEmpty(t, refused.Hint)
			}
			v := values()
			exec(t, pool, insert, v["topic"], v["key"], v["type"], v["payload"], v["content_type"], v["attributes"])
		})
	}
}

func TestEventCheck_LetsEveryCharacterOfAnotherEncodingIn(t *testing.T) {
	pool := openURL(t, testenv.EncodedDatabaseURL(t, "LATIN1")+"&client_encoding=LATIN1")
	exec(t, pool, `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $1, $1, $1)`, "M\xfcller")
	require.Equal(t, 1, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
}

// hostile has what the rules use, as a service's own schema may have it: each call fails.
const hostile = `
CREATE SCHEMA hostile;
CREATE COLLATION hostile."C" (LOCALE = 'C');
CREATE DOMAIN hostile.text AS pg_catalog.int4;
CREATE DOMAIN hostile.jsonb AS pg_catalog.int4;
DO $$
DECLARE f record; o record;
BEGIN
    FOR f IN SELECT DISTINCT p.proname, pg_get_function_identity_arguments(p.oid) AS args, p.proretset,
                    format_type(p.prorettype, NULL) AS result
             FROM pg_proc p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a') AND p.provariadic = 0
               AND p.proname IN ('octet_length', 'length', 'jsonb_typeof', 'jsonb_each', 'bool_and', 'count', 'getdatabaseencoding', 'convert_to',
                                 'set_config', 'hashtextextended', 'pg_advisory_xact_lock', 'lpad', 'upper', 'to_hex', 'ascii', 'split_part',
                                 'left', 'now', 'clock_timestamp', 'gen_random_uuid')
               AND p.prorettype NOT IN ('record'::regtype) LOOP
        EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION ''the hostile function %s was called''; END $f$',
                       f.proname, CASE f.args WHEN '"any"' THEN 'anyelement' ELSE f.args END, f.result, f.proname);
    END LOOP;
    FOR o IN SELECT oprname, oprleft::regtype::pg_catalog.text AS l, oprright::regtype::pg_catalog.text AS r FROM pg_operator
             WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b'
               AND oprname IN ('=', '<>', '<', '>', '<=', '>=', '~', '!~', '~*', '!~*', '#>>', '||', '&')
               AND (oprleft::regtype::pg_catalog.text, oprright::regtype::pg_catalog.text) IN
                   (('text', 'text'), ('integer', 'integer'), ('bigint', 'bigint'), ('bigint', 'integer'), ('jsonb', 'jsonb'), ('jsonb', 'text[]'), ('name', 'text'), ('name', 'name'),
                    ('timestamp with time zone', 'timestamp with time zone'), ('boolean', 'boolean')) LOOP
        EXECUTE format('CREATE FUNCTION hostile.%I(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION ''the hostile operator %s was called''; END $f$',
                       'op ' || o.oprname, 'pg_catalog.' || CASE o.l WHEN 'integer' THEN 'int4' WHEN 'bigint' THEN 'int8' WHEN 'boolean' THEN 'bool' WHEN 'timestamp with time zone' THEN 'timestamptz' ELSE o.l END,
                       'pg_catalog.' || CASE o.r WHEN 'integer' THEN 'int4' WHEN 'bigint' THEN 'int8' WHEN 'boolean' THEN 'bool' WHEN 'timestamp with time zone' THEN 'timestamptz' ELSE o.r END, o.oprname);
        EXECUTE format('CREATE OPERATOR hostile.%s (FUNCTION = hostile.%I, LEFTARG = %s, RIGHTARG = %s)', o.oprname, 'op ' || o.oprname,
                       'pg_catalog.' || CASE o.l WHEN 'integer' THEN 'int4' WHEN 'bigint' THEN 'int8' WHEN 'boolean' THEN 'bool' WHEN 'timestamp with time zone' THEN 'timestamptz' ELSE o.l END,
                       'pg_catalog.' || CASE o.r WHEN 'integer' THEN 'int4' WHEN 'bigint' THEN 'int8' WHEN 'boolean' THEN 'bool' WHEN 'timestamp with time zone' THEN 'timestamptz' ELSE o.r END);
    END LOOP;
END $$;`

// A service may have functions, operators, types and collations of its own before those
// of PostgreSQL.
func TestEventCheck_HoldsWhateverComesFirstInTheSearchPath(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, hostile)
	require.NotZero(t, query[int](t, pool, `SELECT count(*) FROM pg_operator WHERE oprnamespace = 'hostile'::regnamespace`))
	const insert = `INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes) VALUES ($1, $2, $3, $4, $5, $6)`
	valid := []any{"orders", "k", "T", "x", "text/plain", `{"a.b": "c"}`}
	for name, c := range map[string]struct {
		place      int
		value      string
		constraint string
	}{
		"valid":               {0, "orders", ""},
		"no topic":            {0, "", "event_topic_is_1_to_256_bytes"},
		"a long key":          {1, strings.Repeat("x", 2000), "event_key_is_at_most_1024_bytes"},
		"a tab in the type":   {2, "a\t", "event_type_has_valid_characters"},
		"no payload":          {3, "", "event_payload_is_not_empty"},
		"a line feed":         {4, "a\n", "event_content_type_has_valid_characters"},
		"a bad name":          {5, `{"a..b": "c"}`, "event_attributes_are_valid"},
		"a tab in a value":    {5, `{"a": "\t"}`, "event_attributes_are_valid"},
		"a number":            {5, `{"a": 1}`, "event_attributes_are_valid"},
		"one of the relay's":  {5, `{"event_id": "1"}`, "event_attributes_are_valid"},
		"seven of attributes": {5, `{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1","g":"1"}`, "event_attributes_are_valid"},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), `SET LOCAL search_path = hostile, pg_catalog`)
			require.NoError(t, err)
			values := append([]any{}, valid...)
			values[c.place] = c.value
			_, err = tx.Exec(t.Context(), insert, values...)
			if c.constraint == "" {
				require.NoError(t, err)
				require.NoError(t, outbox.Writer{SerializeKeys: true}.Write(t.Context(), tx, outbox.Event{Topic: "orders", Key: "k", Type: "T", Payload: "x"}))
				return
			}
			var refused *pgconn.PgError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, []string{"23514", c.constraint}, []string{refused.Code, refused.ConstraintName}, refused.Message)
		})
	}
}

// The error of a refused event takes back the search_path that its function sets.
func TestEventCheck_LeavesTheSearchPathOfARefusedInsert(t *testing.T) {
	pool := testenv.Database(t)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `SET LOCAL search_path = public, pg_catalog`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `DO $$ BEGIN INSERT INTO outbox.event (topic, type, payload) VALUES ('', 'T', 'x'); EXCEPTION WHEN check_violation THEN NULL; END $$`)
	require.NoError(t, err)
	var path string
	require.NoError(t, tx.QueryRow(t.Context(), `SHOW search_path`).Scan(&path))
	require.Equal(t, "public, pg_catalog", path)
}

// An event that is neither valid nor refused would be committed and never published.
func TestEventCheck_WithoutAnAnswerFailsTheInsert(t *testing.T) {
	for _, answer := range []string{"false", "NULL"} {
		t.Run(answer, func(t *testing.T) {
			pool := testenv.Database(t)
			exec(t, pool, `
				CREATE OR REPLACE FUNCTION outbox.event_is_valid(topic text, key text, type text, content_type text,
				                                                 payload text, created_at timestamptz, attributes jsonb) RETURNS boolean
				LANGUAGE sql RETURN `+answer+`::boolean`)
			_, err := pool.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload, content_type) VALUES ('orders', 'T', 'x', 'text/plain')`)
			require.ErrorContains(t, err, "bytes")
			require.Zero(t, query[int](t, pool, `SELECT count(*) FROM outbox.status`))
		})
	}
}

// A partition that is attached again brings its constraints back.
func TestMigrate_FreesDetachedPartitionsOfTheCheck(t *testing.T) {
	pool := empty(t)
	exec(t, pool, `ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`)
	migrateUntil(t, pool, "checked_when_enqueued")
	today := query[string](t, pool, `SELECT 'outbox.event_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')`)
	exec(t, pool, `SELECT outbox.make_partition((now() AT TIME ZONE 'UTC')::date)`)
	exec(t, pool, `ALTER TABLE outbox.event DETACH PARTITION `+today)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	exec(t, pool, `DO $$ BEGIN EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION `+today+` FOR VALUES FROM (%L) TO (%L)',
		date_trunc('day', now(), 'UTC'), date_trunc('day', now(), 'UTC') + interval '1 day'); END $$`)
	own := makeRole(t, pool)
	exec(t, pool, fmt.Sprintf(`GRANT USAGE ON SCHEMA outbox TO %[1]s; GRANT INSERT (topic, type, payload) ON outbox.event TO %[1]s`, own))
	exec(t, pool, fmt.Sprintf(`DO $$ BEGIN SET LOCAL ROLE %s; INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x'); END $$`, own))
}

// An archive of a detached partition may take hours.
func TestMigrate_KeepsNoProducerWaitingForAReaderOfADetachedPartition(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "checked_when_enqueued")
	today := query[string](t, pool, `SELECT 'outbox.event_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')`)
	exec(t, pool, `SELECT outbox.make_partition((now() AT TIME ZONE 'UTC')::date)`)
	exec(t, pool, `ALTER TABLE outbox.event DETACH PARTITION `+today)
	archive, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer archive.Rollback(t.Context())
	_, err = archive.Exec(t.Context(), `SELECT count(*) FROM `+today)
	require.NoError(t, err)
	migrated := make(chan error, 1)
	go func() { _, err := migrateAll(t.Context(), pool); migrated <- err }()
	producer, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer producer.Release()
	_, err = producer.Exec(t.Context(), `SET lock_timeout = '1ms'`)
	require.NoError(t, err)
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		_, err := producer.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
		require.NoError(t, err)
	}
	require.Empty(t, migrated)
	require.NoError(t, archive.Commit(t.Context()))
	require.NoError(t, <-migrated)
}

// An archive has the constraints of the table that it was made like.
func TestMigrate_LeavesTheCheckOfTablesThatOthersMade(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "checked_when_enqueued")
	exec(t, asSuperuser(t, pool), `CREATE TABLE outbox.event_20200101 (LIKE outbox.event INCLUDING ALL)`)
	exec(t, pool, `
		CREATE TABLE outbox.archive (LIKE outbox.event INCLUDING CONSTRAINTS INCLUDING GENERATED) PARTITION BY RANGE (created_at);
		CREATE TABLE outbox.archive_default PARTITION OF outbox.archive DEFAULT`)
	exec(t, pool, `SELECT outbox.make_partition('2020-01-02')`)
	exec(t, pool, `ALTER TABLE outbox.event DETACH PARTITION outbox.event_20200102`)
	exec(t, pool, `ALTER TABLE outbox.archive ATTACH PARTITION outbox.event_20200102 FOR VALUES FROM ('2020-01-02 00:00Z') TO ('2020-01-03 00:00Z')`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, 4, query[int](t, pool, `SELECT count(*) FROM pg_constraint WHERE conname = 'event_is_valid'`))
}

func TestMigrate_GoesOnWhereTheCheckWasDropped(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "checked_when_enqueued")
	exec(t, pool, `ALTER TABLE outbox.event DROP CONSTRAINT event_is_valid`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
}

// The CHECK of the version before runs with the producer's rights.
func TestMigrate_DownLetsProducersInsert(t *testing.T) {
	pool := hardened(t)
	own := makeRole(t, pool)
	exec(t, pool, fmt.Sprintf(`GRANT USAGE ON SCHEMA outbox TO %[1]s; GRANT INSERT (topic, type, payload) ON outbox.event TO %[1]s`, own))
	migrateDownTo(t, pool, "checked_when_enqueued")
	require.Equal(t, "event_is_valid", query[string](t, pool, `SELECT conname FROM pg_constraint WHERE conrelid = 'outbox.event'::regclass AND contype = 'c'`))
	exec(t, pool, fmt.Sprintf(`DO $$ BEGIN SET LOCAL ROLE %s; INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x'); END $$`, own))
}
