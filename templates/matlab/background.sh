#!/usr/bin/env bash
# Start a relaxation in the background and return at once.
# With whichCluster 0 and several parallel calculations, USPEX continues when its command returns. A step is
# finished when JOB_LOG contains JOB_IS_FINISHED. In INPUT.txt, as commandExecutable:
#     bash ../Specific/background.sh uspex-bridge-vasp
# JOB_IS_FINISHED is written after every relaxation, also a failed one. SIGTERM to this script ends the relaxation.
if [ $# -eq 0 ]; then
    echo "usage: bash background.sh COMMAND [ARGUMENT...]" >&2
    exit 2
fi
if [ "$1" != --detached ]; then
    rm -f JOB_LOG
    # The relaxation continues after the end of the terminal and after Ctrl-C to USPEX.
    trap '' HUP INT
    $(command -v setsid) bash "$0" --detached "$@" < /dev/null > bridge.out 2>&1 &
    exit 0
fi
shift
job=
code=143
finish() {
    echo "$(date '+%F %T') exit code $code"
    echo JOB_IS_FINISHED
}
stop() {
    if [ -z "$job" ]; then exit; fi
    kill -TERM "$job" 2> /dev/null
}
trap 'finish >> JOB_LOG' EXIT
trap stop TERM
echo "$(date '+%F %T') $* (process $$)" >> JOB_LOG
"$@" &
job=$!
wait "$job"
code=$?
# A signal ends 'wait' early; the relaxation may still write its result.
while kill -0 "$job" 2> /dev/null; do
    wait "$job"
    code=$?
done
