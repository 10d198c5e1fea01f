#!/usr/bin/env bash
# A TPU slice as a queued resource, spot by default, made again when it is preempted:
#   PROJECT=p ZONE=us-east5-a TYPE=v6e-64 VERSION=v2-alpha-tpuv6e BUCKET=gs://my-bucket \
#     launch/tpu_vm.sh --config=configs/mlip.py:manifest --config.data.path=/data/mimic.csv --workdir=/data/runs/mlip
# The bucket is mounted on every host as /data (gcsfuse): manifest, images and runs live there. DRY=1 only prints the commands.
set -euo pipefail

: "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}" "${VERSION:?}" "${BUCKET:?}"
name=${NAME:-medvlp}
tries=${TRIES:-20}
gcloud() { if [[ -n "${DRY:-}" ]]; then echo "gcloud $*"; else command gcloud "$@"; fi; }
tpu=(compute tpus)
where=(--project="$PROJECT" --zone="$ZONE")
install="set -e; command -v gcsfuse || sudo apt-get -yq install gcsfuse; sudo mkdir -p /data; \
mountpoint -q /data || sudo gcsfuse -o allow_other --implicit-dirs ${BUCKET#gs://} /data; pip install -q /data/medvlp_jax[tpu]"
printf -v options '%q ' "$@"

for ((attempt = 1; attempt <= tries; attempt++)); do
  gcloud "${tpu[@]}" queued-resources create "$name" "${where[@]}" --node-id="$name" --accelerator-type="$TYPE" \
    --runtime-version="$VERSION" "${SPOT---spot}"
  until [[ -n "${DRY:-}" || $(gcloud "${tpu[@]}" queued-resources describe "$name" "${where[@]}" --format='value(state.state)') == ACTIVE ]]; do
    sleep 30
  done
  status=0
  gcloud "${tpu[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$install" &&
    gcloud "${tpu[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=all \
      --command="cd /data/medvlp_jax && python -m medvlp_jax.train --distributed=on $options" || status=$?
  gcloud "${tpu[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
  [[ $status == 0 || $status == 2 ]] && exit "$status" # 2: a mistake that another attempt does not mend
  echo "attempt $attempt ended with $status; the run goes on from its last checkpoint" >&2
done
exit "$status"
