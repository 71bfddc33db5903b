#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes: the GPU tests first, then every benchmark.
#
#   bench/run_gpu.sh            on a machine with a CUDA device; no network, nothing is installed
#   OUT=DIR bench/run_gpu.sh    results into DIR instead of bench/results; also PYTHON, the
#                               interpreter, LIMIT and STEP, seconds for all and for one step, and
#                               ONLY, a pattern: the steps whose name it finds ('inference|score')
#
# Each step has a time-out, so that a hang costs one step, and a failed step stops no other. Exit
# code: 0, 1 where a step failed, 2 where there is no CUDA device: then all is tried that needs none
# (imports, arguments, cases, tuning candidates, collection of the tests).
# A benchmark that joins BENCHMARKS takes --help and --out DIR.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$(command -v python || command -v python3)}
LOG=${OUT:+$OUT/run_gpu.log}  # results that are to be committed lie beside no log
OUT=${OUT:-bench/results}
LIMIT=${LIMIT:-530} STEP=${STEP:-180} ONLY=${ONLY:-}
# besides attention: those that exist are run
BENCHMARKS=(inference training score_cam convolution_plans agreement waterfall)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export MPLCONFIGDIR=${MPLCONFIGDIR:-${TMPDIR:-/tmp}}
summary=() failed=0

step() { # step SECONDS NAME COMMAND...: run it within its time-out and what is left of LIMIT
    local seconds=$1 name=$2 started=$SECONDS code
    shift 2
    [[ -z $ONLY || $name =~ $ONLY ]] || return
    ((seconds > STEP)) && seconds=$STEP
    ((seconds > LIMIT - SECONDS)) && seconds=$((LIMIT - SECONDS))
    if ((seconds < 1)); then
        code="left out: no time"
    else
        printf '\n== %s\n' "$name"
        timeout --kill-after=5 "$seconds" "$@"
        code=$?
    fi
    [ "$code" = 0 ] || failed=1
    [ "$code" = 124 ] || [ "$code" = 137 ] && code="$code, stopped after $seconds s"
    summary+=("$(printf '%5d s  exit %-24s %s' $((SECONDS - started)) "$code" "$name")")
}

gpu_tests() { # the files that hold GPU tests: other files may need packages that are not here
    grep -lE 'mark\.gpu|import.* kernel_cases|from kernel_cases' tests/test_*.py | sort
}

existing() { # the benchmarks of BENCHMARKS that are in this checkout
    local name
    for name in "${BENCHMARKS[@]}"; do
        [ -f "bench/$name.py" ] && echo "$name"
    done
}

without_gpu() {
    local name
    for name in attention tune $(existing); do
        step 120 "bench/$name.py takes arguments" "$PYTHON" "bench/$name.py" --help
    done
    step 120 "the cases of bench/attention.py" "$PYTHON" bench/attention.py --list
    step 120 "the candidates of bench/tune.py" "$PYTHON" bench/tune.py --dry-run
    step 120 "the layers of bench/convolution_plans.py" "$PYTHON" bench/convolution_plans.py --list
    step 120 "the GPU tests are found" "$PYTHON" -m pytest -q -p no:cacheprovider \
        --collect-only -m gpu $(gpu_tests)
}

with_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    step 170 "GPU tests" "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu --durations=5 $(gpu_tests)
    step 110 "attention: compile and compare everything" "$PYTHON" bench/attention.py \
        --quick --prepare --patience 90 --out "$OUT"
    for group in ha1 ha2 ca23 ca34 large; do
        step 60 "attention: $group" "$PYTHON" bench/attention.py --case "$group" --quick --patience 30 \
            --out "$OUT"
    done
    for name in $(existing); do
        step 90 "$name" "$PYTHON" "bench/$name.py" --out "$OUT"
    done
    step 30 "attention: targets" "$PYTHON" bench/attention.py --targets --out "$OUT"
}

print_summary() {
    printf '\n== steps\n'
    printf '%s\n' "${summary[@]}"
    printf '%5d s  in all\n' "$SECONDS"
}

measure() { # all that needs the GPU; its exit code says whether a step failed
    with_gpu
    print_summary
    return "$failed"
}

main() {
    if ! "$PYTHON" -c 'import torch'; then
        echo "bench/run_gpu.sh: $PYTHON cannot import torch" >&2
        return 2
    fi
    if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        mkdir -p "$OUT"
        measure 2>&1 | tee "${LOG:-/dev/null}"
        return "${PIPESTATUS[0]}"
    fi
    without_gpu
    print_summary
    if ((failed)); then
        echo "bench/run_gpu.sh: no CUDA device, and a check that needs none failed (see above)" >&2
        return 1
    fi
    echo "bench/run_gpu.sh: no CUDA device here; everything up to the point that needs one works" >&2
    return 2
}

main
