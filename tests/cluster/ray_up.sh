#!/usr/bin/env bash
# A real `ray up` without any cloud: three network namespaces of this machine, each with its own
# sshd, process table, /tmp/ray and ~/.ray. A sweep of 24 trials by `ray submit`, one node killed in
# the middle, 24 of 24, 8 more by `ray job submit`, `ray down`.
#
# Needs root, Linux, iproute2, openssh-server and rsync. It makes the bridge es-br and the namespaces
# es-0 to es-2 on 10.199.0.0/24 and removes them at the end, whatever happens.
#
# Usage, from the project's root:  tests/cluster/ray_up.sh [folder of its virtual environment]
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
venv=$(cd "${1:-$top/.venv}" && pwd)
[ "$(id -u)" = 0 ] || { echo "tests/cluster/ray_up.sh needs root: it makes network namespaces"; exit 2; }
for tool in ip sshd rsync ssh-keygen unshare; do
  PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 2; }
done
"$venv/bin/python" -c 'import ray.dashboard.optional_deps' 2>/dev/null ||
  { echo "install the extra first: pip install -c constraints.txt -e '.[cluster]'"; exit 2; }

sshd=$(PATH=$PATH:/usr/sbin command -v sshd)
export HOME; HOME=$(getent passwd "$(id -un)" | cut -d: -f6)  # sshd goes by the account's, too
work=$(mktemp -d)
nodes="0 1 2"

cleanup() {
  for n in $nodes; do
    ip netns pids "es-$n" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "es-$n" 2>/dev/null || true
    ip link del "es-v$n" 2>/dev/null || true  # else it stays as long as a killed process takes to end
  done
  ip link del es-br 2>/dev/null || true
  rm -rf "$work" /tmp/ray/cluster-editing-sweeps-test.*
}
trap cleanup EXIT

say() { echo "== $(date +%T) $*"; }

say "three nodes"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
ssh-keygen -q -t ed25519 -N '' -f "$work/host"
"$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$work/token"
ip link add name es-br type bridge
ip addr add 10.199.0.254/24 dev es-br
ip link set es-br up
mkdir -p /run/sshd ~/.ray /tmp/ray
touch ~/.bashrc
for n in $nodes; do
  ip netns add "es-$n"
  ip link add "es-v$n" type veth peer name eth0 netns "es-$n"
  ip link set "es-v$n" master es-br up
  ip -n "es-$n" addr add "10.199.0.$((n + 1))/24" dev eth0
  ip -n "es-$n" link set eth0 up
  ip -n "es-$n" link set lo up
  ip -n "es-$n" route add default via 10.199.0.254  # Ray takes its own address from the default route
  mkdir -p "$work/node-$n/ray"
  echo "export PATH=$venv/bin:\$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" > "$work/node-$n/bashrc"
  # `ray stop` ends every Ray process that it can see: each node has a process table of its own.
  ip netns exec "es-$n" unshare -u -m -p -f --mount-proc bash -c "
    hostname node-$n
    mount -t tmpfs tmpfs /tmp/ray
    mount -t tmpfs tmpfs /dev/shm
    mount --bind '$work/node-$n/ray' ~/.ray
    mount --bind '$work/node-$n/bashrc' ~/.bashrc
    exec '$sshd' -D -h '$work/host' -o AuthorizedKeysFile='$work/key.pub' -o StrictModes=no \
      -o PermitRootLogin=yes -o UsePAM=no -o PidFile=none" > "$work/node-$n/sshd.log" 2>&1 &
  disown  # that they are killed at the end is no news
done

"$venv/bin/python" - "$top" "$work" <<'PYTHON'
"""cluster.on_prem.yaml for the three nodes: code and environment are on their shared disk already."""
import sys
from pathlib import Path

import yaml

top, work = map(Path, sys.argv[1:])
config = yaml.safe_load((top / "cluster.on_prem.yaml").read_text())
config["cluster_name"] = "editing-sweeps-test"
config["provider"] |= {"head_ip": "10.199.0.1", "worker_ips": ["10.199.0.2", "10.199.0.3"]}
config["auth"] = {"ssh_user": "root", "ssh_private_key": str(work / "key")}
config["file_mounts"] = {"~/.ray/auth_token": str(work / "token")}
config["setup_commands"] = []
for key in ("head_start_ray_commands", "worker_start_ray_commands"):
    config[key] = [
        line.replace("ray start", "ray start --num-cpus=1")
        .replace("10.0.0.1", "10.199.0.1")
        .replace("~/mlflow", f"{work}/mlflow")
        .replace("$HOME/mlflow", f"{work}/mlflow")
        for line in config[key]
    ]
(work / "cluster.yaml").write_text(yaml.safe_dump(config))
PYTHON

export PATH=$venv/bin:$PATH RAY_UP_enable_autoscaler_v2=0 RAY_USAGE_STATS_ENABLED=0
say "ray up"
ray up -y "$work/cluster.yaml" > "$work/up.log" 2>&1 || { tail -40 "$work/up.log"; exit 1; }
count='import ray; ray.init(address="auto", log_to_driver=False); print("nodes", sum(n["Alive"] for n in ray.nodes()))'
until ray exec "$work/cluster.yaml" "python -c '$count'" 2>/dev/null | grep -q 'nodes 3'; do
  [ $SECONDS -lt 300 ] || { echo "three nodes were not up after 300 s"; exit 1; }
  sleep 3
done
say "24 trials by ray submit"
store=$work/store
# Trials of seconds: a node's first process takes as long to begin, and others would have done all.
sweep=(ablation=smoke backbone=facts_tiny method=ft_m protocol.kind=lifelong protocol.num_edits=20
  protocol.edit_batch_size=1 method.num_steps=200 method.stop_loss=0 cluster=auto store="$store"
  'axes.method.edit_lr=[1e-4,2e-4,3e-4,4e-4,5e-4,6e-4,7e-4,8e-4]' mlflow=http://10.199.0.1:5000)
ray submit "$work/cluster.yaml" "$top/orchestrator/sweep.py" -- "${sweep[@]}" 'seeds=[0,1,2]' \
  > "$work/submit.log" 2>&1 &
submit=$!
ends() { cat "$store"/ledger/*.jsonl 2>/dev/null | grep '"event":"end"' || true; }
until [ "$(ends | grep -c '"host":"node-2"')" -ge 1 ]; do
  kill -0 $submit 2>/dev/null || { cat "$work/submit.log"; exit 1; }
  sleep 0.2
done
say "killing node 2 after $(ends | wc -l) trials"
ip netns pids es-2 | xargs kill -9 || true  # some end with their parents before it is their turn
wait $submit || { cat "$work/submit.log"; exit 1; }
tail -20 "$work/submit.log"

say "8 more by ray job submit"
# On the head, in place of a tunnel: the dashboard listens on its loopback alone.
job=$(printf '%q ' python "$top/orchestrator/sweep.py" "${sweep[@]}" 'seeds=[0,1,2,3]')
ray exec "$work/cluster.yaml" \
  "ray job submit --address http://127.0.0.1:8265 -- sh -c $(printf '%q' "$job")" \
  > "$work/job.log" 2>&1 || { cat "$work/job.log"; exit 1; }
tail -8 "$work/job.log"

"$venv/bin/python" - "$store" <<'PYTHON'
import json
import sys
from collections import Counter
from pathlib import Path

rows = [
    json.loads(line)
    for path in Path(sys.argv[1], "ledger").glob("*.jsonl")
    for line in path.read_text().splitlines()
]
ends = [row for row in rows if row["event"] == "end"]
times = Counter(row["fingerprint"] for row in ends)
print(f"{len(times)} of 32 trials ended; by status {dict(Counter(row['status'] for row in ends))};")
print(f"by host {dict(Counter(row['host'] for row in ends))}; twice {sum(n > 1 for n in times.values())}")
assert len(times) == 32
assert set(times.values()) == {1}
assert {row["status"] for row in ends} == {"finished"}
assert {row["host"] for row in ends} == {"node-0", "node-1", "node-2"}
PYTHON
"$venv/bin/python" - <<'PYTHON'
from mlflow import MlflowClient

client = MlflowClient("http://10.199.0.1:5000")
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
print(f"{len(runs)} of 32 runs on the MLflow server of the head")
assert len({run.data.tags["fingerprint"] for run in runs}) == len(runs) == 32
PYTHON
say "ray down"
ray down -y "$work/cluster.yaml" > "$work/down.log" 2>&1 || { tail -20 "$work/down.log"; exit 1; }
say "done"
