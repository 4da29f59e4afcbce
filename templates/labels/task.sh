# Task k computes the folders in lines k, k + @{tasks}, ... of jobs-@{number}.txt and skips finished ones. The script can be
# submitted again, from its own folder.
list=jobs-@{number}.txt
if ! cd "$labels" || [ ! -f $list ]; then
    echo "$list is not in $labels: submit this script from its own folder" >&2
    exit 1
fi
export OMP_NUM_THREADS=1
failed=0
for name in $(awk "NR % @{tasks} == $task % @{tasks}" $list); do
    (
        cd "$name" || exit 1
        @{done} && exit 0
        # Locked by 'uspex-bridge label run', or left by a killed one.
        [ ! -e .running ] || flock -n .running rm .running || exit 0
        exec 9>> run.log
        flock -nE 75 9
        [ $? -ne 75 ] || exit 0   # another job computes it
        (
            @{command}
        ) > run.log 2>&1
        code=$?
        echo "exit code $code" >> run.log
        exit $code
    ) || failed=1
done
exit $failed
