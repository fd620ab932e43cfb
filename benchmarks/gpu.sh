#!/usr/bin/env bash
# Installs fastgan, runs what needs a GPU, times the operations. Everything it finds out lies below RESULTS_DIR.
# No network is needed. Exits non-zero when something failed, after the rest has run. Takes less than ten minutes.
#
#   benchmarks/gpu.sh RESULTS_DIR
set -uo pipefail

if [ $# -ne 1 ]; then
    echo "usage: benchmarks/gpu.sh RESULTS_DIR" >&2
    exit 2
fi
mkdir -p "$1"
results=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
failed=0

# part NAME SECONDS COMMAND...: runs a command with a time limit and keeps what it says.
part() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    timeout --kill-after=10 "$limit" "$@" >"$results/$name.log" 2>&1 || status=$?
    echo "$name: exit $status after $((SECONDS - start)) s" | tee -a "$results/summary.txt"
    return "$status"
}

: >"$results/summary.txt"
"$python" -c 'import platform, torch, triton
print("python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())' 2>&1 | tee -a "$results/summary.txt"

# Into a folder of its own: the machine's packages stay as they are. The benchmarks import one another, which `-P` would
# not let them: it keeps the checkout from taking the installation's place.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if part install 50 "$python" -m pip install --no-deps --quiet --retries 1 --target "$site" .; then
    export PYTHONPATH=$site:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
else
    echo "install: failed, see install.log; running from source, without the C++ parts" | tee -a "$results/summary.txt"
    export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" -P -c 'import fastgan, fastgan._native as n
print("fastgan from", fastgan.__path__[0], "| C++:", n.why_not("_cpu") or "built", "| CUDA C++:", n.why_not("_cuda") or "built")' \
    2>&1 | tee -a "$results/summary.txt"

# The checkout is the current directory: `-m pytest` would put it before the installation.
if "$python" -c 'import pytest' 2>"$results/pytest-import.log"; then
    part tests 170 "$python" -P -m pytest -m gpu -q -rf -W ignore::pytest.PytestConfigWarning --tb=short tests/ops tests/gpu || failed=1
    tail -n 1 "$results/tests.log" | tee -a "$results/summary.txt"
else
    echo "tests: pytest is not installed here" | tee -a "$results/summary.txt"
    failed=1
fi
part ops 60 "$python" -P benchmarks/run.py --device cuda --only ops --seconds 0.05 --out "$results/ops_cuda.csv" || failed=1
part steps 70 "$python" -P benchmarks/run.py --device cuda --only steps --seconds 0.1 --out "$results/steps_cuda.csv" || failed=1
part training 100 "$python" -P benchmarks/end_to_end.py --device cuda --seconds 1 --out "$results/training_cuda.csv" || failed=1
part families 40 "$python" -P benchmarks/end_to_end.py --device cuda --families --seconds 0.5 --only "eager channels_last" fastgan \
    --out "$results/families_cuda.csv" || failed=1
part deploy 60 "$python" -P benchmarks/deploy.py --device cuda --seconds 0.3 --out "$results/deploy_cuda.csv" \
    --only eager "eager channels_last" "fastgan torch" "fastgan compile" onnxruntime || failed=1
part kernels 10 "$python" -P -m fastgan doctor --kernels || failed=1
# Compilers take their time: what is cut off here has left the rows that it had.
part whole 30 "$python" -P benchmarks/run.py --device cuda --only steps --case wgan_gp --whole --seconds 0.1 --out "$results/whole_cuda.csv" || true
exit "$failed"
