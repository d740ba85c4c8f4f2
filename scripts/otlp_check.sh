#!/usr/bin/env bash
# OTLP against a receiver and a decoder that nobody here wrote: PyPI's rotel and opentelemetry-proto.
#
#   scripts/otlp_check.sh PATH_TO_DOGWATCH
#
# Not part of scripts/test.sh: it needs a package index. The packages go into a folder that is
# removed at the end. rotel needs libpython3.11.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary="$(realpath "${1:?usage: scripts/otlp_check.sh PATH_TO_DOGWATCH}")"
venv="$(mktemp -d)"
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check rotel==0.0.1a15 opentelemetry-proto==1.45.2
"$venv/bin/python" scripts/otlp_receiver.py "$binary"
