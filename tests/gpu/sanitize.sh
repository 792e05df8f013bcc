#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over every Triton case of tests/kernels, whose shapes are small: out-of-bounds access, races in
# shared memory, reads of memory nobody wrote. Needs a GPU and the CUDA toolkit; takes some minutes. Usage: tests/gpu/sanitize.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on PATH: install the CUDA toolkit" >&2; exit 1; }
export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # one allocation a tensor, so that an access past its end is seen
for tool in memcheck racecheck initcheck synccheck; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
        "${PYTHON:-python}" -m pytest -q -p no:cacheprovider tests/kernels/test_*_triton.py "$@"
done
