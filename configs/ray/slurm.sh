#!/bin/bash
# A search on a Slurm allocation: one Ray node a machine, the driver on the first. Submitted again it goes on where it stopped.
#   sbatch configs/ray/slurm.sh --trials 100 --data.format mvtec --data.root /shared/mvtec_ad --data.category all
# SEARCH (default ./search) is the output; it and the data must be visible on all machines under the same path.
#SBATCH --job-name=bikd-search
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=08:00:00
set -euo pipefail
here="${SLURM_SUBMIT_DIR:-$PWD}"
venv="${VENV:-$here/.venv}"
search="${SEARCH:-$here/search}"
. "$venv/bin/activate"
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')
port=6379

srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
    ray start --head --node-ip-address="$head" --port=$port --include-dashboard=false \
    --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 15
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap -x "${nodes[0]}" \
        ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
    sleep 15
fi

if [ -f "$search/search.json" ]; then
    exec python "$here/tune/search.py" --resume "$search" --address "$head:$port"
fi
exec python "$here/tune/search.py" --output "$search" --address "$head:$port" "$@"
