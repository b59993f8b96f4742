# shellcheck shell=bash disable=SC2154
# What the demo prints, and how it waits.

step() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }

# Ends the demo with a reason.
fail() {
  # shellcheck disable=SC2034
  reason=$*
  exit 1
}

# Shows a command as a user would type it, and runs it.
run() {
  local word line=
  for word; do
    case $word in
      *\'*) line+=" \"$word\"" ;;
      *[!A-Za-z0-9_./:=@,-]*) line+=" '$word'" ;;
      *) line+=" $word" ;;
    esac
  done
  printf '$%s\n' "$line"
  "$@" || fail "this command has failed:$line"
}

# within <seconds> <what> <command...>: waits until the command succeeds.
within() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what did not come about in time"
    sleep 0.2
  done
}
