#!/usr/bin/env bash
# Installs fastgan, runs the tests that need a GPU, and the benchmarks. All results and logs are written to RESULTS_DIR.
# No network is needed. If a part fails, the rest still runs and the script exits non-zero. The time limits of all parts
# add up to about 15 minutes.
#
#   benchmarks/gpu.sh RESULTS_DIR [PART...]     install tests training families steps ops deploy doctor compiled whole
set -uo pipefail

if [ $# -lt 1 ]; then
    echo "usage: benchmarks/gpu.sh RESULTS_DIR [PART...]" >&2
    exit 2
fi
mkdir -p "$1"
results=$(cd "$1" && pwd)
shift
asked=" $* "
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
failed=0

wanted() { [ "$asked" = "  " ] || [[ $asked == *" $1 "* ]]; }

# part NAME SECONDS COMMAND...: runs a command with a time limit and keeps its output. A benchmark that exceeds the limit
# has written the rows measured until then.
part() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    wanted "$name" || return 0
    timeout --signal=INT --kill-after=10 "$limit" "$@" >"$results/$name.log" 2>&1 || status=$?
    echo "$name: exit $status after $((SECONDS - start)) s" | tee -a "$results/summary.txt"
    return "$status"
}

: >"$results/summary.txt"
"$python" -c 'import platform, torch, triton
print("python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())' 2>&1 | tee -a "$results/summary.txt"

# fastgan is installed into a temporary folder; the packages of the machine are not changed. `-P` keeps the checkout off
# sys.path, so that the installed package is imported; benchmarks/ is added for the modules that the scripts share.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
# CUDA C++ is compiled for this GPU only.
arch=$("$python" -c 'import torch; a = "%d%d" % torch.cuda.get_device_capability(); print(a + "a" * (a >= "90"))')
export FASTGAN_CUDA_ARCHS=${FASTGAN_CUDA_ARCHS:-$arch}
if wanted install && part install 90 "$python" -m pip install --no-deps --quiet --retries 1 --target "$site" .; then
    export PYTHONPATH=$site:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
else
    echo "install: not requested or failed; running from source, without the C++ extensions" | tee -a "$results/summary.txt"
    export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" -P -c 'import fastgan, fastgan._util.native as n
print("fastgan from", fastgan.__path__[0], "| C++:", n.why_not("_cpu") or "built", "| CUDA C++:", n.why_not("_cuda") or "built")' \
    2>&1 | tee -a "$results/summary.txt"

if wanted tests; then
    # Most of the time is spent compiling kernels. `-P`: `-m pytest` would otherwise import the checkout in the current
    # directory instead of the installation.
    workers=$("$python" -c 'import xdist, os; print("-n", min(8, len(os.sched_getaffinity(0))))' 2>/dev/null)
    part tests 240 "$python" -P -m pytest -m gpu $workers -q -rf -p no:benchmark -W ignore::pytest.PytestConfigWarning \
        --tb=short tests/ops tests/gpu || failed=1
    tail -n 1 "$results/tests.log" | tee -a "$results/summary.txt"
fi
eager=("eager channels_last" "hand-written graph" fastgan "fastgan graph")
part training 90 "$python" -P benchmarks/end_to_end.py --device cuda --seconds 0.5 --only "${eager[@]}" \
    --out "$results/training_cuda.csv" || failed=1
part families 90 "$python" -P benchmarks/end_to_end.py --device cuda --families --seconds 0.3 --only "${eager[@]}" \
    --out "$results/families_cuda.csv" || failed=1
part steps 80 "$python" -P benchmarks/run.py --device cuda --only steps --seconds 0.05 --out "$results/steps_cuda.csv" || failed=1
part ops 60 "$python" -P benchmarks/run.py --device cuda --only ops --seconds 0.03 --out "$results/ops_cuda.csv" || failed=1
part deploy 60 "$python" -P benchmarks/deploy.py --device cuda --seconds 0.3 --out "$results/deploy_cuda.csv" \
    --only eager "eager channels_last" "fastgan torch" "fastgan compile" onnxruntime || failed=1
part doctor 10 "$python" -P -m fastgan doctor --kernels || failed=1
# The next two compile with Inductor and may exceed their limits, which is no failure.
part compiled 120 "$python" -P benchmarks/end_to_end.py --device cuda --seconds 0.5 --only compile "fastgan graph" "fastgan+compile" \
    --out "$results/compiled_cuda.csv" || true
part whole 30 "$python" -P benchmarks/run.py --device cuda --only steps --case wgan_gp --whole --seconds 0.1 --out "$results/whole_cuda.csv" || true
exit "$failed"
