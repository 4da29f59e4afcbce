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

if ! command -v "${uspex%% *}" > /dev/null; then
    echo "run-search: there is no '${uspex%% *}' on PATH; set USPEX to the command that starts USPEX" >&2
    exit 127
fi
while [ ! -e USPEX_IS_DONE ]; do
    $uspex < /dev/null > log.call 2>&1
    cat log.call >> log
    if grep -q 'Too many structures have errors' log.call; then
        echo "run-search: USPEX gave up, fewer than a third of a generation were relaxed; see the table of" >&2
        echo "    'uspex-bridge log' and CalcFold*/bridge.log; on_reject = \"penalty\" in Specific/bridge.toml may help" >&2
        exit 1
    fi
    [ -e USPEX_IS_DONE ] || sleep "$pause"
done
echo "run-search: done, results are in $(ls -d results* 2> /dev/null | tail -n 1)"
