#!/usr/bin/env bash
# Everything that must hold before a change is merged, in one command.
#
#   scripts/test.sh            all of it; bounded, for CI
#   scripts/test.sh --quick    formatting, lints, tests of the library and of the tree
#   scripts/test.sh --long     all of it, with the long kill matrix and simulation, and advisories
#
# Build output goes to CARGO_TARGET_DIR, by default a cache folder outside the clone. Needs cargo
# with rustfmt and clippy, a C compiler and the programs of PostgreSQL: tests start private servers
# in folders of their own. promtool and amtool are unpacked from their Debian packages where they
# are missing; no service is started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=full
for argument in "$@"; do
    case "$argument" in
        --quick) mode=quick ;;
        --long) mode=long ;;
        *)
            echo "scripts/test.sh: unknown argument $argument; usage: scripts/test.sh [--quick | --long]" >&2
            exit 2
            ;;
    esac
done

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dogwatch"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
tools="$cache/tools"
PATH="$PATH:$tools/usr/bin"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# Each test that writes decision rows takes them again, and adds how many there were.
export DOGWATCH_TEST_DECISIONS="$scratch/decisions"

say() { printf '\n== %s\n' "$*"; }

# Runs a command under a name, and says how long it took.
step() {
    local name="$1" began=$SECONDS
    shift
    say "$name"
    "$@"
    printf -- '-- %s: %d s\n' "$name" "$((SECONDS - began))"
}

# Runs a command as root, where that is possible without asking.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# Unpacks the programs of Debian packages beside the build cache: installing the packages would
# start their services.
unpack() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$tools" "$scratch/packages"
    (
        cd "$scratch/packages"
        apt-get download "$@" 2>/dev/null ||
            { as_root apt-get update -qq && apt-get download "$@"; }
    ) || return 1
    local package
    for package in "$scratch"/packages/*.deb; do
        dpkg-deb -x "$package" "$tools"
    done
}

# Whether a Postgres server can be started: from Debian's folder of versions, or from the PATH.
have_postgres() {
    local bin program
    bin="$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)"
    for program in initdb postgres psql; do
        # Running them shows that their libraries are there, too.
        PATH="${bin:-/nonexistent}:$PATH" "$program" --version >/dev/null 2>&1 || return 1
    done
}

# Debian's package, without the cluster and the service that it would set up; where we are not
# root, its programs are unpacked.
get_postgres() {
    local settings=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$settings" ]; then
        as_root mkdir -p "${settings%/*}" && echo "create_main_cluster = false" | as_root tee "$settings" >/dev/null
    fi
    as_root apt-get install -y -qq --no-install-recommends postgresql >/dev/null ||
        { as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends postgresql >/dev/null; }
    have_postgres && return
    local server
    server="$(apt-cache depends postgresql 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')"
    [ -n "$server" ] && unpack "$server" "${server/postgresql/postgresql-client}" libpq5 || return 1
    PATH="$PATH:$(ls -d "$tools"/usr/lib/postgresql/*/bin | sort -V | tail -n 1)"
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(ls -d "$tools"/usr/lib/*-linux-gnu | head -n 1)"
    have_postgres
}

# Unpacked, because the package would start a service; into a folder that everybody may read, because
# it refuses to run as root.
get_pgbouncer() {
    unpack pgbouncer libevent-2.1-7 libc-ares2 || return 1
    local open="$scratch/pgbouncer"
    mkdir -p "$open" && chmod 755 "$open" && chmod 711 "$scratch"
    cp "$tools/usr/sbin/pgbouncer" "$tools"/usr/lib/*-linux-gnu/lib{event,cares}*.so* "$open" || return 1
    PATH="$PATH:$open"
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$open"
    pgbouncer --version >/dev/null
}

need() {
    local missing=()
    command -v cc >/dev/null || as_root apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null ||
        missing+=("a C compiler (Debian: gcc libc6-dev)")
    command -v promtool >/dev/null || unpack prometheus || missing+=("promtool (Debian: prometheus)")
    command -v amtool >/dev/null || unpack prometheus-alertmanager ||
        missing+=("amtool (Debian: prometheus-alertmanager)")
    # Debian's Alertmanager reads its templates there and nowhere else, also where it was only unpacked.
    local templates=/usr/share/prometheus/alertmanager
    if [ ! -e "$templates/email.tmpl" ] && [ -e "$tools$templates/email.tmpl" ]; then
        as_root mkdir -p "$templates" && as_root cp "$tools$templates"/*.tmpl "$templates" ||
            missing+=("$templates/*.tmpl (Debian: prometheus-alertmanager)")
    fi
    have_postgres || get_postgres || missing+=("a PostgreSQL server: initdb, postgres, psql (Debian: postgresql)")
    command -v openssl >/dev/null || as_root apt-get install -y -qq --no-install-recommends openssl >/dev/null ||
        missing+=("openssl (Debian: openssl)")
    cargo fmt --version >/dev/null 2>&1 || missing+=("rustfmt (rustup component add rustfmt)")
    cargo clippy --version >/dev/null 2>&1 || missing+=("clippy (rustup component add clippy)")
    # For delivery through a pooler; without it that is printed as not shown.
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || get_pgbouncer ||
        echo "pgbouncer is not to be had here: delivery through a pooler is not shown"
    # For a clock that is off; without it that fault is printed as not shown.
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 ||
        as_root apt-get install -y -qq --no-install-recommends libfaketime >/dev/null ||
        echo "libfaketime cannot be installed here: a clock that is off is not shown with real processes"
    # For the ring on xfs; without it that kind is printed as not shown.
    command -v mkfs.xfs >/dev/null || as_root apt-get install -y -qq --no-install-recommends xfsprogs >/dev/null ||
        echo "xfsprogs cannot be installed here: the ring on xfs is not shown"
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "scripts/test.sh: missing, and not to be had from here; install:" >&2
        printf '  %s\n' "${missing[@]}" >&2
        exit 69
    fi
}

run_tests() { cargo test --locked --profile ci "$@" 2>&1 | tee -a "$scratch/tests.log"; }

run_deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "cargo-deny is not installed: licences, bans and sources are not checked here"
        return
    fi
    # The advisories need the network: only in the long run.
    local checks=(licenses bans sources)
    [ "$mode" = long ] && checks+=(advisories)
    cargo deny --locked check "${checks[@]}"
}

run_alerts() {
    promtool check rules --lint-fatal alerts/dogwatch.yml
    promtool test rules alerts/tests/*.yml
    amtool check-config alerts/alertmanager.yml
    # The dead-man's switch reaches whoever waits for it, and an alarm does not go there.
    route() { amtool config routes test --config.file=alerts/alertmanager.yml "$@"; }
    route --verify.receivers=deadman alertname=DogwatchWatchdog severity=none
    route --verify.receivers=operators alertname=DogwatchLogSilence severity=critical
}

# With the binary that the tests were built beside: building it alone would unify features anew, and
# compile half of everything again.
run_demo() {
    timeout 120 "$CARGO_TARGET_DIR/ci/dogwatch" demo --json
}

run_alerts_live() {
    scripts/alerts_check.sh "$CARGO_TARGET_DIR/ci/dogwatch"
}

# The sum over the closing lines of all test binaries.
summary() {
    awk '/^test result:/ { passed += $4; failed += $6 }
         END { printf "\n%d passed, %d failed\n", passed, failed }' "$scratch/tests.log"
    awk '{ rows += $1 } END { printf "%d stored decisions were taken again and came out the same\n", rows }' \
        "$DOGWATCH_TEST_DECISIONS"
}

step "what is needed" need
step "format" cargo fmt --check
step "lints" cargo clippy --locked --profile ci --all-targets -- -D warnings
if [ "$mode" = quick ]; then
    step "tests" run_tests --lib
    step "tests of the tree" run_tests --test it -- tidy assets
    step "alert rules" run_alerts
    summary
    exit 0
fi
[ "$mode" = long ] && export DOGWATCH_TEST_LONG=1
step "the flight recorder alone" \
    cargo clippy --locked --profile ci --no-default-features --features telemetry --lib -- -D warnings
step "tests" run_tests
step "dependencies" run_deny
step "alert rules" run_alerts
step "demo" run_demo
step "alerts for real" run_alerts_live
printf '\nall in %d s' "$SECONDS"
summary
