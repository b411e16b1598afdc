# What an allocation does, on its first node; posttrain_verl/clusters/slurm.py writes the lines above.
set -euo pipefail

# A token of this cluster alone. It lives in the environment of the job's processes and in no file.
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
workers=$((${#nodes[@]} - 1))
if ((workers > 0)); then
    # The address by which the other nodes see this one, since its own name may mean the loopback here.
    own='import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.connect((sys.argv[1], 9)); print(s.getsockname()[0])'
    ip=$("$python" -c "$own" "${nodes[1]}")
    address=$ip:$((20000 + SLURM_JOB_ID % 20000))
    "$python" -m ray.scripts.scripts start --head --block --node-ip-address="$ip" --port="${address##*:}" \
        --temp-dir="/tmp/ray-$SLURM_JOB_ID" --include-dashboard=false "${ray_options[@]}" &
    head=$!
    until "$python" -m ray.scripts.scripts health-check --address="$address" 2>/dev/null; do
        kill -0 "$head"
        sleep 1
    done
    # srun takes --cpus-per-task from sbatch no longer (Slurm 22.05), and would give each raylet one CPU.
    srun --nodes="$workers" --ntasks="$workers" --ntasks-per-node=1 --exclude="${nodes[0]}" \
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        "$python" -m ray.scripts.scripts start --block --address="$address" "${ray_options[@]}" &
    export RAY_ADDRESS=$address
fi

"${launch[@]}" &
run=$!
trap 'kill -TERM "$run"' TERM INT # Slurm's warning before the time is up: the run ends as after Ctrl-C
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # the signal cut the waiting short
    code=0
    wait "$run" || code=$?
done
exit "$code"
