# Keeps the processes and the folder of one test server from outliving the test.
#
# Arguments: the folder. Standard input: `watch PID` and `forget PID`, a line each. When it ends,
# because the test let go or because it was killed, everything watched is killed together with
# its children, and the folder is removed.

folder=$1
watched=' '
while read -r order pid; do
    case $order in
    watch) watched="$watched$pid " ;;
    forget) watched="${watched%%" $pid "*} ${watched#*" $pid "}" ;;
    esac
done

# A stopped parent has no new children, so the look at them is complete.
doomed=
for parent in $watched; do
    kill -STOP "$parent"
    doomed="$doomed $parent"
    for status in /proc/[0-9]*/stat; do
        read -r line <"$status" || continue
        # The program's name is in parentheses and may hold anything; state and parent follow it.
        set -- ${line##*) }
        [ "$2" = "$parent" ] && doomed="$doomed ${line%% *}"
    done
done
for pid in $doomed; do
    kill -KILL "$pid"
done

# PostgreSQL keeps a small piece of System V memory that outlives its processes; its number is on
# the lock file's seventh line.
for lock in "$folder"/*/postmaster.pid; do
    [ -f "$lock" ] || continue
    set -- $(sed -n 7p "$lock")
    [ -n "$2" ] && ipcrm -m "$2"
done

# A dying process may still write a file while its folder is removed.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$folder"
    [ -e "$folder" ] || exit 0
    sleep 0.1
done
exit 1
