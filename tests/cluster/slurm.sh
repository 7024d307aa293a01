#!/bin/sh
# A real SLURM of one node on this machine, for slurm_checks.py; Debian, as root.
#
#     tests/cluster/slurm.sh start    install what is missing, start, run a first job
#     tests/cluster/slurm.sh stop
#
# Its configuration lies in $EQCIFAR_SLURM and not in /etc, so that its commands need
# SLURM_CONF=$EQCIFAR_SLURM/slurm.conf in their environment.
set -eu

FOLDER=${EQCIFAR_SLURM:-/tmp/eqcifar-slurm}
export SLURM_CONF="$FOLDER/slurm.conf"

stop() {
	for daemon in slurmd slurmctld munged; do
		test -f "$FOLDER/$daemon.pid" || continue
		kill "$(cat "$FOLDER/$daemon.pid")" 2>/dev/null || true
		rm -f "$FOLDER/$daemon.pid"
	done
}

install() {
	command -v slurmctld >/dev/null && command -v munged >/dev/null && return
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		slurm-wlm munge
}

configure() {
	mkdir -p "$FOLDER/state" "$FOLDER/spool" /run/munge
	chown munge: /run/munge
	node=$(hostname -s)
	# proctrack and task: a container seldom lets SLURM have its cgroups.
	# cred_expire: how long a requeued job waits, 120 s by default.
	# Partition high preempts the jobs of low, which get 20 s to save.
	cat >"$SLURM_CONF" <<CONF
ClusterName=eqcifar
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/munge.socket.2,cred_expire=5
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=30
InactiveLimit=0
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
CONF
}

start() {
	install
	stop
	configure
	runuser -u munge -- munged --pid-file=/run/munge/munged.pid --force
	ln -sf /run/munge/munged.pid "$FOLDER/munged.pid"
	slurmctld
	slurmd
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		sinfo --noheader --states=idle 2>/dev/null | grep -q . && break
		sleep 1
	done
	srun --ntasks 1 --time 1 echo "SLURM $(slurmctld -V | cut -d' ' -f2) runs jobs."
}

case ${1:-} in
start | stop) "$1" ;;
*)
	sed -n '2,5p' "$0"
	exit 2
	;;
esac
