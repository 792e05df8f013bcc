#!/usr/bin/env bash
# GPU tests, compute-sanitizer on the kernels, then every GPU benchmark: one visit to a GPU, under ten minutes.
#   OUT=folder benchmarks/gpu_all.sh          results go to $OUT (default benchmarks/results); exit status 1 if a part failed
# Each part has its own limit, so that a slow one costs its own results only. BUDGET (seconds) caps the whole.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT="${OUT:-benchmarks/results}"
BUDGET="${BUDGET:-585}"
mkdir -p "$OUT"
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
failed=0

part() { # part NAME SECONDS COMMAND...
    local name="$1" limit="$2" left=$((BUDGET - SECONDS))
    shift 2
    if ((left < 10)); then
        echo "== $name: not run, no time left"
        failed=1
        return
    fi
    ((limit > left)) && limit=$left
    local begin=$SECONDS
    timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
    local status=$?
    echo "== $name: status $status, $((SECONDS - begin)) s"
    tail -n 4 "$OUT/$name.log" | sed 's/^/   /'
    ((status == 0)) || failed=1
}

if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no CUDA GPU here: nothing was run" >&2
    exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$OUT/gpu.txt"

# Most of the tests' time is the compiler's: several at once where pytest-xdist is there.
workers="$(python -c 'import xdist, os; print("-n", min(10, os.cpu_count()))' 2>/dev/null)"
# shellcheck disable=SC2086
part gpu_tests 120 python -m pytest -q -p no:cacheprovider $workers tests/gpu tests/kernels -k "gpu or triton"
# One or two cases of every kernel; tests/gpu/sanitize.sh runs them all, under two more of its tools, and takes longer than a visit.
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        part "sanitizer_$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            python -m pytest -q -p no:cacheprovider tests/kernels/test_*_triton.py \
            -k "ahead or highest or even_shapes or one_side or several_tiles or regions or by_the_rule or hardly_seen or laid_out"
    done
else
    echo "== compute-sanitizer: not installed, not run"
fi

# The rows the goals are stated in come first: if time runs out it is the others that are missing.
kernels() { python benchmarks/kernels.py --out "$OUT/kernels_gpu.csv" --seconds 0.1 "$@"; }
export -f kernels
export OUT
part kernels_cosine 60 bash -c 'kernels --ops cosine_discrepancy --shapes resnet18 --batches 256 --dtypes bf16'
part kernels_objective 60 bash -c 'kernels --ops bidirectional_loss --shapes resnet18 --batches 64 --dtypes bf16'
part kernels_map 60 bash -c 'kernels --ops anomaly_map simulate --shapes resnet18 --batches 32 --dtypes bf16'
part simulation 40 python benchmarks/simulation.py --batch 64 --out "$OUT/simulation.csv"
# What a step adds to its networks; needs deepspeed. Most of the first one's time is the compiler's.
step() { part "overhead_$1" 70 python benchmarks/training_overhead.py --steps 15 --out "$OUT/training_overhead.csv" "${@:2}"; }
step default
step resnet18 --model.teacher resnet18 --model.weights random --training.batch_size 64
step wide_resnet50 --model.teacher wide_resnet50_2 --model.weights random --training.batch_size 64
part kernels_rest 120 bash -c 'kernels --batches 32 256 --dtypes fp32 bf16 --providers eager ours copy' # no compiling
part tiles 60 python benchmarks/tune_tiles.py --out "$OUT/tiles_gpu.csv" --workers 10
[ -s "$OUT/kernels_gpu.csv" ] && part plots 30 python benchmarks/plot_kernels.py --csv "$OUT/kernels_gpu.csv" --out "$OUT"
echo "total $SECONDS s, results in $OUT"
exit "$failed"
