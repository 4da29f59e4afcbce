#!/usr/bin/env bash
# Run the search in this folder to its end:
#     nohup bash run-search.sh > search.log 2>&1 &
# With several structures at a time, USPEX ends after each round of reading and submitting. This script calls it
# again until it writes USPEX_IS_DONE.
# USPEX='USPEX -r -o' runs it under Octave. PAUSE=300 is the time between calls, s.
set -u
cd "$(dirname "$0")" || exit 1
uspex=${USPEX:-USPEX -r}
pause=${PAUSE:-@{pause}}

stop() {
    echo "run-search: $1" >&2
    exit "${2:-1}"
}
command -v "${uspex%% *}" > /dev/null ||
    stop "'${uspex%% *}' is not on PATH; set USPEX to the command that starts USPEX" 127
[ ! -e still_running ] ||
    stop "still_running exists: USPEX runs or was killed; if it was killed, remove still_running and CalcFold*/OSZICAR"

while [ ! -e USPEX_IS_DONE ]; do
    $uspex < /dev/null >> log 2>&1
    # USPEX removes still_running at its end, but not after an error or a kill.
    if [ -e still_running ]; then
        results=$(ls -dt results* 2> /dev/null | head -n 1)
        if tail -n 20 "$results/OUTPUT.txt" 2> /dev/null | grep -q 'Too many structures have errors'; then
            stop "USPEX stopped: less than a third of a generation was relaxed. 'uspex-bridge log --record .' shows the reasons;
    with on_reject = \"penalty\" in Specific/bridge.toml such a search continues. Remove still_running to start again."
        fi
        stop "USPEX ended with an error, see the end of log; remove still_running and CalcFold*/OSZICAR to start again"
    fi
    [ -e USPEX_IS_DONE ] || sleep "$pause"
done
echo "run-search: done, results are in $(ls -dt results* 2> /dev/null | head -n 1)"
