package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/outbox"
)

var errRollBack = errors.New("rolled back on purpose")

// transaction is one of a writer's.
type transaction struct {
	key     key
	events  []check.Written
	pads    []string
	ages    []int         // in days, of backdated events
	linger  time.Duration // between the inserts and the end
	sleep   time.Duration // of the statement, after it has drawn its id
	undo    bool
	outcome check.Outcome
}

var types = []string{"ChaosBegan", "ChaosWentOn", "ChaosEnded"}

// next invents a transaction.
func (l *Load) next(dice *rand.Rand) *transaction {
	t := &transaction{key: l.keys[dice.IntN(len(l.keys))]}
	if dice.Float64() < l.hotShare {
		t.key = hot
	}
	topic := l.cfg.Topics[dice.IntN(len(l.cfg.Topics))]
	if len(l.cfg.Rare) > 0 && dice.IntN(10) == 0 {
		topic = l.cfg.Rare[dice.IntN(len(l.cfg.Rare))]
	}
	n := l.cfg.Burst
	if n == 0 {
		n = 1 + dice.IntN(3)
	}
	for range n {
		t.events = append(t.events, check.Written{
			ID: outbox.NewID().String(), Topic: topic, Key: t.key.name, Type: types[dice.IntN(len(types))],
			ContentType: outbox.DefaultContentType, Attributes: attributes(dice),
		})
		t.pads = append(t.pads, pad(dice))
		t.ages = append(t.ages, age(dice))
	}
	since := time.Since(l.began)
	if l.large.take(since) {
		t.pads[0] = strings.Repeat("x", large/2+dice.IntN(large/2))
	}
	if t.key.style == plainSQL && l.slow.take(since) {
		t.sleep = time.Duration((1.5 + 2*dice.Float64()) * float64(time.Second))
		return t
	}
	switch roll := dice.Float64(); {
	case roll < .10:
		t.undo = true
	case roll < .13 && l.late.take(since): // commits late, after others that began later
		t.linger = time.Duration((.5 + 2*dice.Float64()) * float64(time.Second))
	}
	if t.undo && dice.IntN(4) == 0 && l.undone.take(since) {
		t.linger = 500 * time.Millisecond
	}
	return t
}

// attributes are none, one or six, and sometimes a trace.
func attributes(dice *rand.Rand) map[string]string {
	a := map[string]string{}
	switch dice.IntN(4) {
	case 0:
		return nil
	case 1:
		for i := range 6 {
			a[fmt.Sprintf("attribute.%d", i)] = strings.Repeat("v", 1+dice.IntN(20))
		}
	default:
		a["tenant"] = "acme & söhne <" + fmt.Sprint(dice.IntN(10)) + ">"
	}
	if dice.IntN(3) == 0 {
		a[outbox.AttributeTraceparent] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	}
	return a
}

// pad is text with difficult characters for encodings, most often short.
func pad(dice *rand.Rand) string {
	n := dice.IntN(20)
	if dice.IntN(50) == 0 {
		n = 2000
	}
	return strings.Repeat("ü漢 <&>\t\"%25+\\ \n", n)
}

// large is a payload near the least that AWS takes of a message with all of its parts,
// 256 KiB.
const large = 240_000

// Backdated events are so many days old.
const (
	Youngest = 3
	Oldest   = 5
)

// age is that of an event whose producer may backdate it: days that retention is to
// drop have events then that are pending, die, and are redriven. Events of a key are
// of any age in any order; only their ids ascend.
func age(dice *rand.Rand) int {
	if dice.IntN(2) == 0 {
		return 0
	}
	return Youngest + dice.IntN(Oldest-Youngest+1)
}

// do is the transaction's body.
func (t *transaction) do(ctx context.Context, tx pgx.Tx) error {
	var err error
	switch t.key.style {
	case rowLock:
		err = t.withRowLock(ctx, tx)
	case serializeKeys:
		err = t.withSerializedKeys(ctx, tx)
	case plainSQL:
		err = t.inPlainSQL(ctx, tx)
	default:
		t.number(0)
		err = outbox.Write(ctx, tx, t.outboxEvents()...)
	}
	if err != nil {
		return err
	}
	if t.linger > 0 {
		time.Sleep(t.linger)
	}
	if t.undo {
		return errRollBack
	}
	return nil
}

// drawSQL locks the aggregate, if this transaction has not done so yet, and counts its events.
const drawSQL = `UPDATE chaos.aggregate SET events = events + $3 WHERE topic = $1 AND key = $2 RETURNING events - $3`

func (t *transaction) draw(ctx context.Context, tx pgx.Tx) (before int64, err error) {
	err = tx.QueryRow(ctx, drawSQL, t.events[0].Topic, t.key.name, len(t.events)).Scan(&before)
	return before, err
}

func (t *transaction) withRowLock(ctx context.Context, tx pgx.Tx) error {
	before, err := t.draw(ctx, tx)
	if err != nil {
		return err
	}
	t.number(before)
	return outbox.Write(ctx, tx, t.outboxEvents()...)
}

// withSerializedKeys has only the library's lock before the insert. The numbers
// are drawn after it, and so are not in the payload; if the library did not hold
// its lock until the end, they would not be in the order of the ids.
func (t *transaction) withSerializedKeys(ctx context.Context, tx pgx.Tx) error {
	t.number(-1)
	if err := (outbox.Writer{SerializeKeys: true}).Write(ctx, tx, t.outboxEvents()...); err != nil {
		return err
	}
	before, err := t.draw(ctx, tx)
	for i := range t.events {
		t.events[i].Seq = before + int64(i) + 1
	}
	return err
}

const (
	lockSQL = `SELECT pg_advisory_xact_lock(hashtextextended('outbox/' || $1 || '/' || $2, 0))`
	// Only the owner may say when an event was written. The statement draws its id first,
	// and may take its time then.
	insertSQL = `
INSERT INTO outbox.event (event_id, topic, key, type, payload, attributes, created_at)
VALUES ($1, $2, $3, $4, (SELECT $5::text || CASE WHEN $8::float8 > 0 THEN pg_sleep($8::float8)::text ELSE '' END), $6,
        clock_timestamp() - make_interval(days => $7))`
)

func (t *transaction) inPlainSQL(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, lockSQL, t.events[0].Topic, t.key.name); err != nil {
		return err
	}
	before, err := t.draw(ctx, tx)
	if err != nil {
		return err
	}
	t.number(before)
	for i, w := range t.events {
		own := w.Attributes
		if own == nil {
			own = map[string]string{}
		}
		sleep := 0.
		if i == len(t.events)-1 {
			sleep = t.sleep.Seconds()
		}
		if _, err := tx.Exec(ctx, insertSQL, w.ID, w.Topic, w.Key, w.Type, w.Payload, own, t.ages[i], sleep); err != nil {
			return err
		}
	}
	return nil
}

// number gives the events their numbers, and payloads that have them. Before is
// how many the key had; without a key there are none, and -1 leaves them out.
func (t *transaction) number(before int64) {
	for i := range t.events {
		w := &t.events[i]
		if t.key.style != unordered && before >= 0 {
			w.Seq = before + int64(i) + 1
		}
		body := map[string]any{"id": w.ID, "topic": w.Topic, "key": w.Key, "seq": w.Seq, "pad": t.pads[i]}
		sum := sha256.Sum256([]byte(encode(body)))
		body["sum"] = hex.EncodeToString(sum[:8])
		w.Payload = encode(body)
	}
}

// encode leaves <, > and & as they are, because they are difficult for XML.
func encode(body map[string]any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(body) // never fails for strings and numbers
	return strings.TrimSpace(b.String())
}

func (t *transaction) outboxEvents() []outbox.Event {
	events := make([]outbox.Event, len(t.events))
	for i, w := range t.events {
		id, _ := outbox.ParseID(w.ID)
		events[i] = outbox.Event{
			ID: id, Topic: w.Topic, Key: w.Key, Type: w.Type, Payload: w.Payload, Attributes: w.Attributes,
		}
	}
	return events
}
