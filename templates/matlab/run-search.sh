#!/usr/bin/env bash
# Run the search in this folder to its end:
#     nohup bash run-search.sh > search.log 2>&1 &
# USPEX leaves after each round of reading and submitting when it works on several structures at once,
# and has to be called again until it writes USPEX_IS_DONE.
# USPEX='USPEX -r -o' runs it under Octave, PAUSE=300 waits longer between calls (seconds).
set -u
cd "$(dirname "$0")" || exit 1
uspex=${USPEX:-USPEX -r}
pause=${PAUSE:-@{pause}}

stop() {
    echo "run-search: $1" >&2
    exit "${2:-1}"
}
command -v "${uspex%% *}" > /dev/null ||
    stop "there is no '${uspex%% *}' on PATH; set USPEX to the command that starts USPEX" 127
[ ! -e still_running ] ||
    stop "still_running is here: another USPEX is at work, or one died; if it died, remove still_running and CalcFold*/OSZICAR"

while [ ! -e USPEX_IS_DONE ]; do
    $uspex < /dev/null >> log 2>&1
    # USPEX removes still_running when it leaves; where it gives up or dies it does not.
    if [ -e still_running ]; then
        results=$(ls -dt results* 2> /dev/null | head -n 1)
        if tail -n 20 "$results/OUTPUT.txt" 2> /dev/null | grep -q 'Too many structures have errors'; then
            stop "USPEX gave up: less than a third of a generation was relaxed. 'uspex-bridge log --record .' shows why;
    on_reject = \"penalty\" in Specific/bridge.toml keeps such a search going. Remove still_running to start again."
        fi
        stop "USPEX died, see the end of log; remove still_running and CalcFold*/OSZICAR to start again"
    fi
    [ -e USPEX_IS_DONE ] || sleep "$pause"
done
echo "run-search: done, results are in $(ls -dt results* 2> /dev/null | head -n 1)"
