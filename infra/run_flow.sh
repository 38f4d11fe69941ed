#!/bin/sh
# Run a flow with recovery: `run_flow.sh dataflows.live`. The store's partitions are created only when absent, for
# initialising a used store is an error. In a StatefulSet each pod keeps one partition of as many as the hostfile
# has lines: the one of its ordinal. To change the number of pods, stop all and move the files together first.
set -eu
flow=$1
store=${UTP_RECOVERY:-/app/var/recovery}/${UTP_STORE:-${flow##*.}}
count=1
ordinal=0
if [ -n "${BYTEWAX_HOSTFILE_PATH:-}" ]; then
    count=$(grep -c . "$BYTEWAX_HOSTFILE_PATH")
    ordinal=${BYTEWAX_POD_NAME##*-}
fi
if ! ls "$store"/part-*.sqlite3 >/dev/null 2>&1; then
    rm -rf "$store.new" && mkdir -p "$store" "$store.new"
    python -m bytewax.recovery "$store.new" "$count"
    mv "$store.new/part-$ordinal.sqlite3" "$store/"
    rm -r "$store.new"
fi
[ -z "${UTP_RECOVERY_ONLY:-}" ] || exit 0
exec python -m infra.run "$flow" -r "$store" -s "${UTP_SNAPSHOT_SECONDS:-10}" -b 0
