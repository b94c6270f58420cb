#!/usr/bin/env bash
# One session on a machine with a GPU: the checks, the benchmarks, then the artefacts at scale medium, or at small where that is
# not declared, all within the time given.
#
#     scripts/gpu_session.sh MINUTES OUTDIR
#
# Every step has a log in OUTDIR, where summary.txt says how each ended; the runs' records and the reports are copied there
# too, also when time runs out. What was cut short goes on with the same command and RESULTS. Environment: PYTHON (python3 or
# the project's .venv), RESULTS (results), EFFDL_DATA.
set -uo pipefail

usage() { echo "gpu_session: $1; scripts/gpu_session.sh MINUTES OUTDIR" >&2; exit 2; }
[[ $# -eq 2 ]] || usage "needs two arguments"
[[ $1 =~ ^[1-9][0-9]*$ ]] || usage "MINUTES is a whole number from 1, not '$1'"
minutes=$1
out=$(realpath -m "$2")
cd "$(dirname "$0")/.."
python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
results=${RESULTS:-results}
end=$((SECONDS + 60 * minutes))

"$python" scripts/gpu_there.py gpu_session || exit
mkdir -p "$out" || exit

# step NAME SECONDS COMMAND...: at most so long, and never beyond the end; its log and how it ended.
step() {
    local name=$1 most=$2 left=$((end - SECONDS)) code
    shift 2
    if ((left < 10)); then
        echo "$name: no time left" | tee -a "$out/summary.txt"
        return
    fi
    ((most > left)) && most=$left
    local before=$SECONDS
    timeout --kill-after=20 "$most" "$@" >"$out/$name.log" 2>&1
    code=$?
    ((code == 124)) && code="cut short"
    echo "$name: $code after $((SECONDS - before)) s" | tee -a "$out/summary.txt"
}

: >"$out/summary.txt"
{ date -u; "$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(), torch.cuda.device_count())'; } 2>&1 |
    tee "$out/machine.txt"
step tests $((20 * minutes)) "$python" -m pytest -m gpu -rs tests/test_gpu.py
step bench $((15 * minutes)) "$python" scripts/bench.py gpu
while read -r artefact scale; do
    step "$artefact" $((60 * minutes)) "$python" -m effdl run "$artefact" --scale "$scale" --results "$results" </dev/null
    step "$artefact-report" 120 "$python" -m effdl report "$artefact" --scale "$scale" --results "$results" </dev/null
done < <("$python" scripts/at_scale.py medium small)
[[ -d $results ]] && cp -r "$results" "$out/results"
exit 0
