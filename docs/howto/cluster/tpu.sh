#!/bin/sh
# Train on all hosts of a TPU pod slice: sh tpu.sh NAME ZONE gs-mount-or-NFS-folder
set -eu
gcloud compute tpus tpu-vm ssh "$1" --zone "$2" --worker all --command "
  cd eqcifar && . .venv/bin/activate &&
  eqcifar train --distributed --arch wrn28-10 --out '$3'"
