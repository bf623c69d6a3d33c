#!/bin/sh
# Seven minutes of the relay with two workers, watched by Prometheus, in which what the
# dashboard is for happens: a destination goes away, an operator pauses a topic, poison
# is written, a worker hangs, the database refuses the relay. It takes nine in all.
# From the root of the checkout, with prometheus and psql on PATH:
#
#     go run ./localstack exec -- docs/dashboards/render/run.sh DIRECTORY
#
# DIRECTORY keeps Prometheus's data and the logs. What to do with it is said at the end.
set -eu
dir=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(dirname "$0")
started=
trap 'for p in $started; do kill -CONT $p; kill $p; done 2>/dev/null || true; wait' EXIT
trap 'exit 1' INT TERM

say() { echo "$(date +%T) $*"; }
sql() { psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$@"; }
starter() { "$dir/bin/starter" "$@" >>"$dir/starter.log" 2>&1; }

go build -o "$dir/bin/" ./worker ./starter ./examples/shop
export OUTBOX_CONFIG=localstack/outbox.yaml
starter migrate

prometheus --config.file="$here/prometheus.yml" --storage.tsdb.path="$dir/prometheus" \
	--web.listen-address=127.0.0.1:9490 >"$dir/prometheus.log" 2>&1 & started="$started $!"
OUTBOX_HTTP_ADDRESS=127.0.0.1:9491 "$dir/bin/worker" >"$dir/worker-1.log" 2>&1 & started="$started $!"
OUTBOX_HTTP_ADDRESS=127.0.0.1:9492 "$dir/bin/worker" >"$dir/worker-2.log" 2>&1 & second=$!; started="$started $!"
starter schedule

# Two topics that the shop does not write to. It opens one connection, which the
# refusal below does not end.
while sleep 0.5; do
	echo "INSERT INTO outbox.event (topic, key, type, payload)
	      SELECT t, 'key-' || i, 'Written', '{}' FROM unnest('{audit,inventory}'::text[]) t, generate_series(1, 5 + (random() * 5)::int) i;"
done | psql --quiet --no-psqlrc "$DATABASE_URL" & started="$started $!"

from=$(date +%s)
say "flow; in 45 s the shop takes the ledger's destination away for a minute"
"$dir/bin/shop" --create --for 3m --break >"$dir/shop-1.log" 2>&1 || say "the shop complains: $dir/shop-1.log"
"$dir/bin/shop" --for 5m >"$dir/shop-2.log" 2>&1 & shop=$!; started="$started $!"
sleep 10
say "an operator pauses audit for 45 s"
starter pause audit --reason "their deploy"
sleep 45
starter resume audit --reason "deployed"
sleep 20
say "poison: one event is too large, three have a character that SQS refuses"
sql "$DATABASE_URL" -c "INSERT INTO outbox.event (topic, key, type, payload) VALUES ('audit', 'a', 'Written', repeat('x', 1100000))"
for key in b c d; do
	sql "$DATABASE_URL" -c "INSERT INTO outbox.event (topic, key, type, payload) VALUES ('audit', '$key', 'Written', E'bell \x07')"
	sleep 10
done
say "a worker hangs for 20 s"
kill -STOP $second
sleep 20
kill -CONT $second
sleep 30
say "the database refuses the relay for 25 s, and nobody else"
admin=${DATABASE_URL%/*}/postgres?sslmode=disable
sql "$admin" -c "ALTER DATABASE outbox CONNECTION LIMIT 0"
sql "$admin" -o /dev/null -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outbox-relay'"
sleep 25
sql "$admin" -c "ALTER DATABASE outbox CONNECTION LIMIT -1"
sleep 60
to=$(date +%s)
say "done; the shop reconciles"
wait $shop || say "the shop complains: $dir/shop-2.log"
cat <<END
The pictures, with Prometheus on the same data:

    prometheus --config.file=/dev/null --storage.tsdb.path=$dir/prometheus --web.listen-address=127.0.0.1:9490 &
    npm --prefix $here install
    npm --prefix $here run picture -- --from $from --to $to
END
