# Task k computes the folders that lines k, k + @{tasks}, ... of jobs-@{number}.txt name; what is done is passed over, so this may
# be submitted again, in the folder it lies in.
list=jobs-@{number}.txt
if ! cd "$labels" || [ ! -f $list ]; then
    echo "$list is not in $labels: submit this script in the folder it lies in" >&2
    exit 1
fi
export OMP_NUM_THREADS=1
failed=0
for name in $(awk "NR % @{tasks} == $task % @{tasks}" $list); do
    (
        cd "$name" || exit 1
        @{done} && exit 0
        # Held by 'uspex-bridge label run', else left behind by one that was killed.
        [ ! -e .running ] || flock -n .running rm .running || exit 0
        exec 9>> run.log
        flock -nE 75 9
        [ $? -ne 75 ] || exit 0   # another job is at it
        (
            @{command}
        ) > run.log 2>&1
        code=$?
        echo "exit code $code" >> run.log
        exit $code
    ) || failed=1
done
exit $failed
