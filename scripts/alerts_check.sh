#!/usr/bin/env bash
# The alert rules for real: Prometheus and Alertmanager on this tree's configurations scrape a live
# dogwatch; the log exporter is cut; the alert fires through Alertmanager into a webhook receiver,
# and resolves. Both ways are shown: by the rules of Prometheus, and by the watch's own posts.
#
#   scripts/alerts_check.sh PATH_TO_DOGWATCH
#
# Intervals, `for` and limits are divided so that it takes about a minute; nothing else of the
# rules is changed. Needs prometheus, prometheus-alertmanager (or alertmanager), amtool, python3 and
# curl on PATH.
# Everything runs in a temporary folder on free ports and ends with this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dogwatch="$(realpath "${1:?usage: scripts/alerts_check.sh PATH_TO_DOGWATCH}")"
work="$(mktemp -d)"
pids=()
finish() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
began=$SECONDS
say() { printf '%3d s  %s\n' "$((SECONDS - began))" "$*"; }
fail() {
    say "FAILED: $*" >&2
    for log in "$work"/*.log "$work/told"; do
        echo "-- $log" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}

alertmanager="$(command -v alertmanager || command -v prometheus-alertmanager || true)"
for need in prometheus python3 curl amtool; do
    command -v "$need" >/dev/null || { echo "scripts/alerts_check.sh: $need is missing" >&2; exit 69; }
done
[ -n "$alertmanager" ] || { echo "scripts/alerts_check.sh: prometheus-alertmanager is missing" >&2; exit 69; }

# Free ports, all open at once so that no two are the same.
read -r gateway watch prom alert hook < <(python3 -c '
import socket
held = [socket.socket() for _ in range(5)]
for one in held: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))')

# Waits until a command succeeds.
until_ok() {
    local what="$1" limit="$2" deadline
    shift 2
    deadline=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "waited $limit s for $what"
        sleep 0.3
    done
}

# The configurations of this tree, faster.
sed -E -e 's/interval: 15s/interval: 1s/' \
    -e 's/keep_firing_for: 5m/keep_firing_for: 2s/' \
    -e 's/for: (15s|30s|1m)$/for: 3s/' \
    -e 's/newest_row_age_seconds\) > 60/newest_row_age_seconds) > 8/' \
    -e 's/\[1m\]/[10s]/g' alerts/dogwatch.yml >"$work/rules.yml"
sed -E -e 's/group_wait: 15s/group_wait: 1s/' -e 's/group_interval: (5m|1m)/group_interval: 1s/' \
    -e "s,^    # webhook_configs:,    webhook_configs:," \
    -e "s,^    #   - url: https://hooks.*,      - url: http://127.0.0.1:$hook/operators," \
    -e "s,^    #   - url: https://hc-ping.*,      - url: http://127.0.0.1:$hook/deadman," \
    -e 's,^    #     send_resolved,        send_resolved,' alerts/alertmanager.yml >"$work/alertmanager.yml"
amtool check-config "$work/alertmanager.yml" >/dev/null
cat >"$work/prometheus.yml" <<YML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$work/rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ["127.0.0.1:$alert"]}]}]}
scrape_configs:
  - {job_name: dogwatch, static_configs: [{targets: ["127.0.0.1:$gateway"]}]}
  - {job_name: dogwatch-watch, static_configs: [{targets: ["127.0.0.1:$watch"]}]}
YML

# Who is told: one line a notified alert.
cat >"$work/receiver.py" <<'PY'
import http.server, json, sys
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        for alert in body.get("alerts", []):
            labels = alert["labels"]
            by = labels.get("noticed_by", "prometheus")
            print(self.path, by, alert["status"], labels["alertname"], labels.get("source_type", ""), flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
PY
python3 "$work/receiver.py" "$hook" >>"$work/told" 2>"$work/receiver.log" &
pids+=($!)

unset "${!DOGWATCH_@}" "${!OTEL_@}" "${!SUPABASE_@}" DATABASE_URL 2>/dev/null || true
export DOGWATCH_DATA_DIR="$work/data" DOGWATCH_LISTEN="127.0.0.1:$gateway" \
    DOGWATCH_WATCH_LISTEN="127.0.0.1:$watch" DOGWATCH_WATCH_SECONDS=1 DOGWATCH_HEARTBEAT_SECONDS=1 \
    DOGWATCH_CANARY_SECONDS=2 DOGWATCH_LOG_SILENCE_SECONDS=8 ORCHESTRATOR_POLL_SEC=1 \
    DOGWATCH_ALERTMANAGER_URL="http://127.0.0.1:$alert"
"$alertmanager" --config.file="$work/alertmanager.yml" --storage.path="$work/am" --cluster.listen-address= \
    --web.listen-address="127.0.0.1:$alert" >"$work/alertmanager.log" 2>&1 &
pids+=($!)
"$dogwatch" up >"$work/dogwatch.log" 2>&1 &
up=$!
pids+=("$up")
until_ok "the watch to answer" 40 curl -fsS "http://127.0.0.1:$watch/livez"
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --rules.alert.resend-delay=1s \
    --web.listen-address="127.0.0.1:$prom" >"$work/prometheus.log" 2>&1 &
pids+=($!)

scraped() { curl -fsS "http://127.0.0.1:$prom/api/v1/query?query=$1" | grep -q '"value"'; }
told() { grep -qE "$1" "$work/told"; }
until_ok "the gateway to be scraped" 40 scraped dogwatch_cycle_completed_total
until_ok "the watch to be scraped" 40 scraped 'dogwatch_logs_newest_row_age_seconds'
say "prometheus $(prometheus --version 2>&1 | sed -nE '1s/.*version ([^ ]+).*/\1/p') scrapes both pages"
until_ok "the dead-man's switch" 20 told '^/deadman prometheus firing DogwatchWatchdog'
say "the dead-man's switch is told that the way works"
until_ok "the pipe to be well" 30 "$dogwatch" watch --once
# A Prometheus that has not scraped yet calls the watch absent, by right.
quiet() { ! curl -fsS "http://127.0.0.1:$prom/api/v1/alerts" | grep -oE '"alertname":"[^"]*"' | grep -qv Watchdog; }
until_ok "only the dead-man's switch to fire" 30 quiet
: >"$work/told"

mkfifo "$work/hold"
"$dogwatch" __hold-lock "$work/data/logs.db" <"$work/hold" >"$work/lock" &
pids+=($!)
exec 3>"$work/hold"
until_ok "the lock" 15 grep -q locked "$work/lock"
cut=$SECONDS
say "the exporter is cut: another process holds an exclusive lock on logs.db"
until_ok "Alertmanager to tell of the watch's alarm" 60 told '^/operators watch firing Dogwatch(LogSilence|AllSilent)'
say "told by the watch's own post, $((SECONDS - cut)) s after the cut"
until_ok "Alertmanager to tell of Prometheus' alarm" 60 \
    told '^/operators prometheus firing Dogwatch(LogSilence|AllSilent)'
say "told by the rules of Prometheus, $((SECONDS - cut)) s after the cut"
if "$dogwatch" watch --once >"$work/once"; then fail "watch --once finds nothing wrong"; fi
say "watch --once exits 1: $(head -n 1 "$work/once")"

exec 3>&-
freed=$SECONDS
say "the lock is released"
until_ok "the watch's alarm to be over" 60 told '^/operators watch resolved Dogwatch(LogSilence|AllSilent)'
until_ok "Prometheus' alarm to be over" 60 told '^/operators prometheus resolved Dogwatch(LogSilence|AllSilent)'
say "both are resolved, $((SECONDS - freed)) s after the release"
until_ok "nothing to be wrong" 30 "$dogwatch" watch --once
strange="$(grep '^/operators' "$work/told" | grep -vE 'Dogwatch(LogSilence|AllSilent|Canary) ' || true)"
[ -z "$strange" ] || fail "alarms that nobody staged: $strange"
say "who was told what:"
sort "$work/told" | uniq -c | grep operators
kill "$up"
wait "$up" 2>/dev/null || true
say "done"
