#!/usr/bin/env bash
# A sweep on the hosts of a TPU slice on Google Cloud. NOT RUN: written from gcloud's documentation, without a TPU.
#
#   launch/tpu_vm.sh NAME ZONE HOSTS DIRECTORY -- COMMAND...
#
#   NAME, ZONE   of the TPU VM, which exists
#   HOSTS        its number of hosts (workers); each becomes one member of the fleet
#   DIRECTORY    of this repository and of the results, on a filesystem that all hosts mount at the same place
#
# for example
#   launch/tpu_vm.sh my-v5e us-west4-a 4 /mnt/shared/cnnjax -- python3 -m experiments.degradation --preset=paper
#
# The same command again continues. Each host sees its own chips only: members share runs, no run is spread over hosts.
set -euo pipefail

if [[ $# -lt 6 || $5 != -- ]]; then
  echo "usage: launch/tpu_vm.sh NAME ZONE HOSTS DIRECTORY -- COMMAND..." >&2
  exit 2
fi
name=$1 zone=$2 hosts=$3 directory=$4
shift 5
command=$(printf '%q ' "$@")
place=$(printf '%q' "$directory")

on() { # worker, line of shell
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}

on all "cd $place && python3 -m pip install -q -e . 'jax[tpu]'"

# A process that keeps to the four chips of its host; without this JAX waits for the other hosts to join. Hosts with
# another number of chips want other bounds: set ALONE.
alone=${ALONE:-TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_PROCESS_BOUNDS=1,1,1 TPU_VISIBLE_DEVICES=0,1,2,3}
members=()
for ((i = 0; i < hosts; i++)); do
  on "$i" "cd $place && env $alone CNNJAX_SHARD=$i/$hosts $command" &
  members+=($!)
done
code=0
for member in "${members[@]}"; do wait "$member" || code=$?; done
[[ $code == 0 ]] || {
  echo "tpu_vm: a host ended with exit code $code; the same command continues" >&2
  exit "$code"
}
on 0 "cd $place && env $alone $command" # finds all results, and reports
