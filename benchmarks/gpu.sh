#!/usr/bin/env bash
# What a machine with a GPU is used for, in stages that each leave their result in $OUT (benchmarks/results/gpu by default).
#   benchmarks/gpu.sh tests table rates ablation worlds
# It needs Python 3.12, torch with CUDA, and the wheels of gymnasium, ale-py, stable-baselines3, tyro and tomli-w: installed, or in
# the folder .whl (pip download), from which they are installed into a temporary folder.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OUT="${OUT:-benchmarks/results/gpu}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT"
if compgen -G ".whl/*.whl" > /dev/null; then
    [ -d /tmp/site/gymnasium ] || "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH="$PWD:/tmp/site"
else
    export PYTHONPATH="$PWD"
fi
for stage in "$@"; do
    echo "== $stage $(date +%T)"
    case "$stage" in
        tests) timeout "${TESTS_S:-120}" "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu $(grep -l "mark.gpu" tests/*.py) 2>&1 | tee "$OUT/gpu-tests.txt" | tail -40 ;;
        table) timeout "${TABLE_S:-240}" "$PYTHON" -m benchmarks.gpu.table --out "$OUT" ${TABLE:-} ;;
        rates) timeout "${RATES_S:-200}" "$PYTHON" -m benchmarks.gpu.rates --out "$OUT" ${RATES:-} ;;
        ablation) timeout "${ABLATION_S:-180}" "$PYTHON" -m benchmarks.gpu.run ablation --out "$OUT" ${ABLATION:-} ;;
        worlds) timeout "${WORLDS_S:-500}" "$PYTHON" -m benchmarks.gpu.run worlds --out "$OUT" ${WORLDS:-} ;;
        *) echo "there is no stage $stage: tests, table, rates, ablation, worlds" >&2; exit 2 ;;
    esac
done
echo "== end $(date +%T)"
