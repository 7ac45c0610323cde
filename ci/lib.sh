# Shared by the scripts in ci/. Sourced, never run.
#
#   cache           the folder of everything that is built; BINDER_EGRESS_CACHE moves it
#   step TEXT CMD…  run CMD with its output in a log; print TEXT and the elapsed time; on failure, the end of the log
#   packages NAME…  install Debian packages that are missing
#   checksum PATH…  one checksum over files and folders, for cache keys
#
# A script whose first argument is --help prints the comment at its top, and ends before it builds anything.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${BINDER_EGRESS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/binder-egress}
logs=$cache/logs
mkdir -p "$cache" "$logs"
# Bytecode is kept outside the checkout. Without it, each worker of pytest needs twice as long to read the tests.
export PYTHONPYCACHEPREFIX=$cache/bytecode
unset PYTHONDONTWRITEBYTECODE

step() {
  local text=$1 began log code
  shift
  began=$(date +%s%N)
  log=$(mktemp "$logs/$(date +%H%M%S)-XXXXXX.log")
  printf '%s ▶ %s\n' "$(date +%T)" "$text" >&2
  # Not `"$@" || code=$?`: before ||, a function goes on after a failed command.
  set +e
  (set -e; "$@") >"$log" 2>&1
  code=$?
  set -e
  local tenths=$((($(date +%s%N) - began) / 100000000))
  if [ "$code" != 0 ]; then
    tail -n 60 "$log" >&2
    printf '%s ✗ %s (%d.%d s, exit %d); all of its output: %s\n' "$(date +%T)" "$text" \
      $((tenths / 10)) $((tenths % 10)) "$code" "$log" >&2
    return "$code"
  fi
  printf '%s ✓ %s (%d.%d s)\n' "$(date +%T)" "$text" $((tenths / 10)) $((tenths % 10)) >&2
}

packages() {
  dpkg -s "$@" >/dev/null 2>&1 && return
  # One at a time: parts of ci/test run in parallel, and apt does not wait for another apt that reads lists. --close, or a service
  # that a package starts would hold the lock.
  # shellcheck disable=SC2016  # for the shell in there
  flock --close "$cache/packages.lock" sh -c 'apt-get -o DPkg::Lock::Timeout=300 update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "$@"' sh "$@"
}

checksum() {
  (cd "$top" && find "$@" -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
}
