#!/usr/bin/env bash
# What a machine with a GPU is used for, in stages that each leave their result in $OUT (by default
# benchmarks/results/gpu).
#   benchmarks/gpu.sh tests table rates ablation worlds
# It needs Python 3.12, torch with CUDA, and the wheels of gymnasium, ale-py, stable-baselines3, tyro, tomli-w and
# platformdirs with what they need: installed, or in the folder .whl (pip download), from which they are installed into
# a temporary folder.
#
# Each stage ends in time: TESTS_S, TABLE_S, RATES_S and ABLATION_S seconds; worlds trains for MINUTES, has one more to
# start, and FINISH_S seconds to register and score. TABLE, RATES, ABLATION and TRAIN are further options of what a
# stage runs, GAMES those of ablation and worlds, SEEDS those of ablation. All but results lies in a temporary folder,
# as few files may come back from such a machine; with RUNS=FOLDER the trainings of worlds lie there, and go on the next
# time. The exit status is 1 if anything failed, after all the rest has run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OUT="${OUT:-benchmarks/results/gpu}" PYTHON="${PYTHON:-python3}" TMPDIR="$work"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$work/compiled}"
DEVICE="${DEVICE:-cuda}" MINUTES="${MINUTES:-5.5}" FINISH_S="${FINISH_S:-100}" RUNS="${RUNS:-$work/runs}"
mkdir -p "$OUT"
if compgen -G ".whl/*.whl" > /dev/null; then
    [ -d /tmp/site/gymnasium ] || "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target /tmp/site .whl/*.whl
    export PYTHONPATH="$PWD:/tmp/site"
else
    export PYTHONPATH="$PWD"
fi

# world GAME: trains it, registers what it has learnt, and packs all there is; a run that is killed is registered, too.
world() {
    local game=$1 run="$RUNS/$1" packed="$work/packed/$1"
    export DIAMOND_GYM_HOME="$work/homes/$game"
    mkdir -p "$run" "$packed" "$DIAMOND_GYM_HOME"
    local train=("$PYTHON" -m diamond_gym train --game "$game" --preset nano-gpu --run "$run" --device "$DEVICE"
        --videos-every 0 --final-episodes 20 ${TRAIN:-})
    local limit
    limit=$(awk "BEGIN {print 60 * $MINUTES + 60}")
    {
        timeout -k 20 "$limit" "${train[@]}" --minutes "$MINUTES"
        # one that came to its end has registered itself; scores come after that, and may be cut off
        registered || [ ! -e "$run/checkpoint.pt" ] || timeout -k 10 "$FINISH_S" "${train[@]}" --finish
    } 2>&1 | tee "$packed/log.txt" | sed -u "s/^/$game: /"
    cp "$run/metrics.jsonl" "$run/settings.json" "$packed" 2> /dev/null
    cp -r "$DIAMOND_GYM_HOME/models/." "$packed" 2> /dev/null
    tar -C "$work/packed" -cf "$OUT/$game.tar" "$game"
    registered
}

registered() {
    compgen -G "$DIAMOND_GYM_HOME/models/*/*.toml" > /dev/null
}

# in_time SECONDS WORDS: a Python process, which is killed after so many seconds.
in_time() {
    timeout -k 10 "$1" "$PYTHON" "${@:2}"
}

failed=0
for stage in "$@"; do
    echo "== $stage $(date +%T)"
    jobs=()
    case "$stage" in
        tests)
            in_time "${TESTS_S:-120}" -m pytest -q -p no:cacheprovider -m gpu $(grep -l "mark.gpu" tests/*.py) 2>&1 |
                tee "$OUT/gpu-tests.txt" | tail -40 ;;
        table) in_time "${TABLE_S:-240}" -m benchmarks.gpu.table --out "$OUT" --device "$DEVICE" ${TABLE:-} ;;
        rates) in_time "${RATES_S:-240}" -m benchmarks.gpu.rates --out "$OUT" --device "$DEVICE" ${RATES:-} ;;
        ablation)
            for game in ${GAMES:-Pong Boxing}; do
                for seed in ${SEEDS:-0 1 2}; do  # each with a home of its own, where it plays and keeps its fits
                    DIAMOND_GYM_HOME="$work/ablation/$game-$seed" in_time "${ABLATION_S:-180}" -m benchmarks.drift \
                        --games "$game" --seeds "$seed" --device "$DEVICE" --precision bfloat16 \
                        --out "$OUT/drift-$game-$seed.json" ${ABLATION:-} &
                    jobs+=($!)
                done
            done ;;
        worlds) for game in ${GAMES:-KungFuMaster CrazyClimber}; do world "$game" & jobs+=($!); done ;;
        *) echo "there is no stage $stage: tests, table, rates, ablation, worlds" >&2; exit 2 ;;
    esac || { failed=1; echo "$stage failed" >&2; }
    for job in "${jobs[@]}"; do
        wait "$job" || { failed=1; echo "$stage: a part of it failed" >&2; }
    done
done
echo "== end $(date +%T)"
exit $failed
