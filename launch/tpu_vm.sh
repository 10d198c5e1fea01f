#!/usr/bin/env bash
# A TPU slice as a queued resource, spot by default, made again when it is preempted and deleted when this script ends:
#   PROJECT=p ZONE=us-east5-a TYPE=v6e-64 VERSION=v2-alpha-tpuv6e BUCKET=gs://my-bucket \
#     launch/tpu_vm.sh --config=configs/mlip.py:manifest --config.data.path=/data/mimic.csv \
#     --config.model.text.init=/data/Bio_ClinicalBERT --workdir=/data/runs/mlip
# The bucket is mounted on every host as /data (gcsfuse): this checkout, manifest, images and runs live there. It needs a
# hierarchical namespace, for a checkpoint comes into being by renaming a folder. DRY=1 only prints the commands.
set -euo pipefail

: "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}" "${VERSION:?}" "${BUCKET:?}"
name=${NAME:-medvlp}
tries=${TRIES:-20}
gcloud() { if [[ -n "${DRY:-}" ]]; then echo "gcloud $*"; else command gcloud "$@"; fi; }
where=(--project="$PROJECT" --zone="$ZONE" --quiet)
queue() { gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }
everywhere() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }

# Python and the packages on the hosts' own disks: the image's Python may be too old, and a build writes into its folder.
install="set -e; command -v gcsfuse || sudo apt-get -yq install gcsfuse; sudo mkdir -p /data; sudo chown \$(id -u) /data; \
mountpoint -q /data || gcsfuse --implicit-dirs ${BUCKET#gs://} /data; rm -rf ~/medvlp_jax; cp -r /data/medvlp_jax ~; \
python3 -m pip install -q uv; python3 -m uv venv -q --python 3.11 ~/python; \
python3 -m uv pip install -q --python ~/python ~/medvlp_jax[tpu,dicom]"
printf -v options '%q ' "$@"
train="cd ~/medvlp_jax && . ~/python/bin/activate && python -m medvlp_jax.train --distributed=on --stopped_code=75 $options"

available() { # waits for the slice; fails where it will not come
  while [[ -z "${DRY:-}" ]]; do
    case $(queue describe --format='value(state.state)') in ACTIVE) break ;; FAILED | SUSPENDED) return 1 ;; esac
    sleep "${POLL:-30}"
  done
}

made=
trap '[[ -z $made ]] || queue delete --force' EXIT # whatever ends this script: an idle slice costs as much as a busy one

for ((attempt = 1; attempt <= tries; attempt++)); do
  # shellcheck disable=SC2086 # no argument at all where SPOT is empty
  queue create --node-id="$name" --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT---spot}
  made=1
  status=0
  { available && everywhere "$install" && everywhere "$train"; } || status=$?
  queue delete --force
  made=
  [[ $status == 0 || $status == 2 ]] && exit "$status" # 2: a mistake that another attempt does not mend
  echo "attempt $attempt ended with $status; the run goes on from its last checkpoint" >&2
done
exit "$status"
