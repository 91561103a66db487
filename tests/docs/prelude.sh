# Read before the commands of a page. `ledger` is the command, but one that serves goes on beside
# the next commands, one that follows is interrupted, and a question is answered with yes.
set -euo pipefail
serving=()
trap 'kill "${serving[@]}" 2>/dev/null || true; wait' EXIT

ledger() {
    case "$*" in
    "serve "* | *" serve "* | "listen "*)
        command ledger "$@" >"serving.${#serving[@]}" 2>&1 &
        serving+=($!)
        for _ in $(seq 600); do
            if grep -q "serving on\|listening\|signing" "serving.$((${#serving[@]} - 1))"; then return; fi
            kill -0 $! || break
            sleep 0.1
        done
        cat "serving.$((${#serving[@]} - 1))" >&2
        return 1
        ;;
    *" --follow"* | *" --watch"* | "monitor "*)
        timeout --signal=INT 4 ledger "$@" || test $? = 124
        ;;
    "erase "*) command ledger "$@" --yes ;;
    *) command ledger "$@" ;;
    esac
}
