#!/bin/sh
# Train on hosts that share a folder, a process on each: sh ssh.sh node0 node1 ...
set -eu
count=$# number=0
for host in "$@"; do
  ssh "$host" "cd eqcifar && .venv/bin/eqcifar train --arch wrn28-10 --out results \
    --coordinator $1:9876 --processes $count --process-id $number" &
  number=$((number + 1))
done
wait
