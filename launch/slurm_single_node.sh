#!/usr/bin/env bash
# A real SLURM of one node, on Debian or Ubuntu, as root, without systemd (in a container, say): for trying and testing.
#
#   launch/slurm_single_node.sh start    install where it is missing, configure, start; does nothing where it answers
#   launch/slurm_single_node.sh status   what answers
#   launch/slurm_single_node.sh stop     end what start began; the packages stay
#
# Memory limits of jobs are enforced where this machine's cgroups can be written; start says whether they are.
set -euo pipefail

CONFIG=/etc/slurm/slurm.conf
STATE=/var/lib/slurm-single-node
MARK="# Written by launch/slurm_single_node.sh"

say() { echo "slurm_single_node: $*" >&2; }
refuse() { say "$*"; exit 2; }
answers() { timeout 5 scontrol ping >/dev/null 2>&1; }
ours() { [[ -f $CONFIG ]] && head -1 "$CONFIG" | grep -qF "$MARK"; }

install_packages() {
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || refuse "there is no apt-get here; this script is for Debian and Ubuntu."
  export DEBIAN_FRONTEND=noninteractive
  timeout 120 apt-get -qq update || true # the lists that are there may do
  timeout 300 apt-get -qq install -y --no-install-recommends slurm-wlm munge >/dev/null ||
    refuse "apt-get could not install slurm-wlm and munge."
}

# Which of the two: "v1", "v2", or "none" where no group can be made.
cgroup_version() {
  local probe
  for probe in /sys/fs/cgroup/memory/slurm_probe:v1 /sys/fs/cgroup/slurm_probe:v2; do
    [[ $probe == *:v2 && ! -f /sys/fs/cgroup/cgroup.controllers ]] && continue
    mkdir "${probe%:*}" 2>/dev/null || continue
    rmdir "${probe%:*}"
    echo "${probe#*:}"
    return
  done
  echo none
}

# In MiB: of the machine, or of this container where that is less.
memory_here() {
  local whole limit file
  whole=$(slurmd -C | sed -n 's/.*RealMemory=\([0-9]*\).*/\1/p')
  for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    limit=$(cat "$file" 2>/dev/null) || continue
    [[ $limit =~ ^[0-9]{1,17}$ ]] && ((limit / 1048576 < whole)) && whole=$((limit / 1048576))
  done
  echo "$whole"
}

# $1: "v1", "v2" or "none".
configure() {
  local node memory tracking="proctrack/linuxproc" task="task/affinity"
  node=$(hostname -s)
  memory=$(memory_here)
  [[ $1 != none ]] && tracking="proctrack/cgroup" task="task/cgroup,task/affinity"
  mkdir -p /etc/slurm "$STATE/controller" "$STATE/spool"
  cat >"$CONFIG" <<CONF
$MARK
ClusterName=single
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/spool
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
ProctrackType=$tracking
TaskPlugin=$task
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
MinJobAge=300
KillWait=30
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
  if [[ $1 == none ]]; then
    rm -f /etc/slurm/cgroup.conf
  else
    cat >/etc/slurm/cgroup.conf <<CONF
$MARK
CgroupPlugin=cgroup/$1
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
$([[ $1 == v2 ]] && echo "IgnoreSystemd=yes")
CONF
  fi
}

start_munge() {
  timeout 5 munge -n </dev/null >/dev/null 2>&1 && return
  [[ -f /etc/munge/munge.key ]] || (umask 077 && dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 status=none)
  chown munge: /etc/munge/munge.key
  mkdir -p /run/munge /var/log/munge /var/lib/munge "$STATE"
  chown munge: /run/munge /var/log/munge /var/lib/munge
  chmod 755 /run/munge
  setsid runuser -u munge -- /usr/sbin/munged </dev/null >/dev/null 2>&1
  touch "$STATE/munged-is-ours"
}

# Starts both daemons, and returns whether a job ran.
start_daemons() {
  slurmctld </dev/null >/dev/null 2>&1 || return 1
  slurmd </dev/null >/dev/null 2>&1 || return 1
  local _
  for _ in $(seq 50); do
    answers && break
    sleep 0.1
  done
  timeout 20 srun --quiet --time=1 --mem=50 true >/dev/null 2>&1
}

# End a daemon by its file of a process id, and wait until it is gone.
end() {
  local id _
  id=$(cat "$1" 2>/dev/null) || return 0
  kill "$id" 2>/dev/null || return 0
  for _ in $(seq 100); do
    kill -0 "$id" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$id" 2>/dev/null || true
}

stop_daemons() {
  timeout 10 scancel --user=root --quiet 2>/dev/null || true
  end "$STATE/slurmd.pid"
  end "$STATE/slurmctld.pid"
}

start() {
  [[ $(id -u) == 0 ]] || refuse "only root can start SLURM's daemons."
  install_packages
  if [[ -f $CONFIG ]] && ! ours; then
    refuse "$CONFIG is of another SLURM; this script leaves it alone."
  fi
  if ours && answers; then
    say "SLURM answers already."
    return
  fi
  stop_daemons
  rm -rf "$STATE/controller" "$STATE/spool" # jobs of an earlier start
  start_munge
  local version
  for version in $(cgroup_version) none; do
    configure "$version"
    if start_daemons; then
      [[ $version == none ]] && say "ready; memory limits are not enforced: no cgroups can be made here." ||
        say "ready; memory limits are enforced (cgroup $version)."
      return
    fi
    stop_daemons
    rm -rf "$STATE/controller" "$STATE/spool"
  done
  say "no job would run; see $STATE/slurmctld.log and $STATE/slurmd.log."
  return 1
}

stop() {
  ours || refuse "this script started no SLURM here."
  stop_daemons
  if [[ -f $STATE/munged-is-ours ]]; then
    end /run/munge/munged.pid
    rm -f "$STATE/munged-is-ours"
  fi
  rm -f "$CONFIG" /etc/slurm/cgroup.conf
  find /sys/fs/cgroup -depth -type d -path "*/slurm_$(hostname -s)*" -exec rmdir {} + 2>/dev/null || true
  say "stopped."
}

case "${1:-}" in
start) start ;;
stop) stop ;;
status) timeout 5 scontrol ping && timeout 5 sinfo ;;
*) refuse "say start, status or stop." ;;
esac
