# shellcheck shell=bash disable=SC2154
# Processes that the demo leaves running, and the file that remembers them.
# Lines: "folder <path>", "given <KUBECONFIG>", "process <name> <pid> <birth>".

new_state() {
  mkdir -p "$(dirname "$state")"
  given=${KUBECONFIG:-}
  folder=$(mktemp -d "${TMPDIR:-/tmp}/tablemap-demo.XXXXXX")
  # The servers' user must be able to reach its own folders in it.
  chmod 711 "$folder"
  printf 'folder %s\ngiven %s\n' "$folder" "$given" > "$state"
}

# What follows a name in the state file.
recorded() {
  if [ -e "$state" ]; then sed -n "s/^$1 //p" "$state"; fi
}

# A process number may be given out again. When a process began says which one it is.
birth() {
  local boot
  boot=$(cat /proc/sys/kernel/random/boot_id)
  # The name, in brackets, may hold spaces. The state is the first word after it, the start time the twentieth.
  awk -v boot="$boot" '{ sub(/.*\) /, "") } $1 != "Z" { print boot ":" $20 }' "/proc/$1/stat" 2> /dev/null || true
}

runs() { [ -n "$2" ] && [ "$(birth "$1")" = "$2" ]; }

# spawn <name> <command...>: starts a program in a session of its own, with a log in the folder.
spawn() {
  local name=$1
  shift
  (cd / && exec setsid "$@") < /dev/null >> "$folder/$name.log" 2>&1 &
  remember "$name" $!
}

remember() {
  local name=$1 pid=$2 born
  born=$(birth "$pid")
  echo "process $name $pid $born" >> "$state"
}

# end <name> <pid> <birth>
end() {
  local signal=TERM tries=0
  # To Postgres, TERM means to wait until its clients have gone.
  case $1 in crm | erp) signal=INT ;; esac
  while runs "$2" "$3"; do
    case $tries in
      0) kill -s "$signal" "$2" || true ;;
      100) kill -s KILL "$2" || true ;;
      150) note "process $2 ($1) does not end"; return ;;
    esac
    tries=$((tries + 1))
    sleep 0.1
  done
}

# Ends the newest first: nothing loses the server that it talks to.
end_all() {
  local name pid born
  while read -r name pid born; do
    end "$name" "$pid" "$born"
  done < <(recorded process | tac)
}

# Succeeds if a process of this name still runs.
lives() {
  local name pid born
  while read -r name pid born; do
    if [ "$name" = "$1" ] && runs "$pid" "$born"; then return; fi
  done < <(recorded process)
  return 1
}

# A port on 127.0.0.1 that nobody listens on, below those that the kernel gives to outgoing connections.
last_port=$((20000 + $$ % 10000))
free_port() {
  last_port=$((last_port + 1))
  while (exec 3<> "/dev/tcp/127.0.0.1/$last_port") 2>/dev/null; do last_port=$((last_port + 1)); done
  printf -v "$1" %s "$last_port"
}
