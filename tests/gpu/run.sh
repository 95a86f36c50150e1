#!/usr/bin/env bash
# Measures everything that the product promises of a GPU, within 8 minutes. It needs Python with
# torch and the other dependencies of pyproject.toml, and a copy of this tree; capcheck need not be
# installed, and nothing is downloaded.
#
#     tests/gpu/run.sh --out FOLDER               on the GPU: FOLDER/gpu.json and FOLDER/gpu.md
#     tests/gpu/run.sh --out FOLDER --device cpu  a smaller rehearsal where there is none
set -euo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
if ! "$python" -P -c 'import capcheck' 2>/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" "$tree/tests/gpu/metadata.py" "$tree/pyproject.toml" "$site"
  export PYTHONPATH="$tree:$site${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" "$tree/tests/gpu/measure.py" "$@"
