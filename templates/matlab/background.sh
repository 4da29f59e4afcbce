#!/usr/bin/env bash
# Start a relaxation in the background and return at once.
# With whichCluster 0 and several parallel calculations USPEX goes on when its command returns, and takes
# the step for finished when it finds JOB_IS_FINISHED in JOB_LOG. In INPUT.txt, as commandExecutable:
#     bash ../Specific/background.sh uspex-bridge-vasp
# That line is written whatever becomes of the relaxation; SIGTERM to this script is passed on to it.
if [ $# -eq 0 ]; then
    echo "usage: bash background.sh COMMAND [ARGUMENT...]" >&2
    exit 2
fi
if [ "$1" != --detached ]; then
    rm -f JOB_LOG
    # The end of the terminal, or Ctrl-C to USPEX, is no reason to stop.
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
# A signal ends 'wait' early; the relaxation may still be writing its result.
while kill -0 "$job" 2> /dev/null; do
    wait "$job"
    code=$?
done
