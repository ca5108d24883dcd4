"""How launch.sh and launch.sbatch end: signals, what is left on the hosts, and whether the run is done."""

# pdsh says so of a host whose launcher failed or whose connection broke, and goes on waiting for the others.
WATCH = """ 2> >(
  while IFS= read -r line; do
    printf '%s\\n' "$line" >&2
    [[ $line != pdsh@*': ssh exited with exit code '* ]] || : >"${link%/*}/host-ended"
  done
)"""

# Beside what the launcher does itself: it says nothing when it is killed, and waits when a host is lost.
GUARD = """
# Ends the attempt when this script is killed, or when one host has been out of it for 30 s.
guard() {
  local out=0 parent=$$
  trap '' INT TERM HUP
  while kill -0 "$launcher" 2>/dev/null; do
    sleep 1
    [[ ! -e ${link%/*}/host-ended ]] || out=$((out + 1))
    # A killed process that nobody has waited for is still there, but is no parent any more.
    [[ ! -r /proc/$BASHPID/stat ]] || read -r _ _ _ parent _ <"/proc/$BASHPID/stat"
    if [[ $parent != "$$" ]] || ((out > 30)); then
      : >"${link%/*}/guarded"
      on_hosts end || true
      kill -KILL "$launcher" 2>/dev/null || true
      [[ $parent == "$$" ]] || "$python" -m launch.job remove "$link"
      return
    fi
  done
}
"""

START_GUARD = """\
guard &
guard=$!
disown "$guard"
"""
END_GUARD = """\
kill -KILL -- "-$guard" 2>/dev/null || true
"""

# Ranks that say they were asked to end, and what is left when the launcher did not end by itself. On many
# hosts a lost connection asks them; on one, the launcher asks those whose peer was killed, and ends with what
# the first of them did.
_CLEAN = """\
# A rank that the guard asked to end says that it was asked to, which nobody did.
[[ -n $stopping || ! -e ${link%/*}/guarded || $outcome == 0 ]] || outcome=3
# So does one whose peer was killed or whose connection was lost.
[[ -n $stopping || $outcome != 130@ASKED@ ]] || outcome=3
[[ $code == 0 && $outcome == 0 ]] || on_hosts end || true
"""
CLEAN = _CLEAN.replace("@ASKED@", "")
CLEAN_HERE = _CLEAN.replace("@ASKED@", " || $code == 130 || $code == 1")

TRAPS = "trap 'stopping=yes; on_hosts ask || true' INT TERM HUP"

# The code of deepspeed says nothing (0 after a killed launcher, 1 for any signal): rank 0's files do.
RESULT = """\
set -m # a process group of its own: signals reach this script alone, which asks each rank once
stopping=''
@TRAPS@
"${command[@]}"@WATCH@ &
launcher=$!
@GUARD@set +m
code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do
  code=0
  wait "$launcher" || code=$?
done
trap - INT TERM HUP
@END_GUARD@
# The code that a launcher ends with is no sign of success: only what rank 0 wrote in this attempt counts.
outcome=3
[[ -z $stopping ]] || outcome=130
if [[ -s $run/done.json && $(cat "$run/done.json") != "$done_before" ]]; then
  outcome=0
elif [[ -s $run/failed.json && $(cat "$run/failed.json") != "$failed_before" ]]; then
  outcome=$(sed -n 's/^.*"code": *\\([0-9][0-9]*\\).*$/\\1/p' "$run/failed.json" | head -n 1)
fi
@CLEAN@[[ $outcome != 0 ]] || exit 0
@AFTER@echo "@WHO@: not done (the launcher ended with $code): see failed.json in $run and @LOOK@" >&2
exit "${outcome:-3}"
"""
