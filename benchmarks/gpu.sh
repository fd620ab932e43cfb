#!/usr/bin/env bash
# All that needs a GPU: installs fastgan, runs the tests and the benchmarks, the most valuable parts first. Results and
# logs are written to RESULTS_DIR. No network is needed.
#
#   benchmarks/gpu.sh [--dry-run] RESULTS_DIR [PART...]
#
# One call takes at most BUDGET seconds (default 590): each part gets its limit or what is left. A part that is cut off
# keeps the rows that it has measured; the next call skips what is complete (PART.done) and resumes the rest. If a part
# fails, the others still run and the script exits non-zero. --dry-run prints the commands and their limits.
#
# TRITON_CACHE_DIR, if set, is a folder with kernels that benchmarks/precompile.py has compiled elsewhere for this GPU.
set -uo pipefail

dry=0
if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
fi
if [ $# -lt 1 ]; then
    echo "usage: benchmarks/gpu.sh [--dry-run] RESULTS_DIR [PART...]" >&2
    exit 2
fi
mkdir -p "$1"
results=$(cd "$1" && pwd)
shift
asked=" $* "
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
deadline=$((SECONDS + ${BUDGET:-590}))
failed=0

say() { echo "$@" | tee -a "$results/summary.txt"; }

# part NAME SECONDS COMMAND...: runs a command with a time limit and keeps its output.
part() {
    local name=$1 limit=$2 start=$SECONDS status=0 left=$((deadline - SECONDS - 5))
    shift 2
    [ "$asked" = "  " ] || [[ $asked == *" $name "* ]] || return 0
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$dry" = 1 ]; then
        echo "$name $limit: ${*@Q}"
        return 0
    fi
    if [ -e "$results/$name.done" ]; then
        say "$name: complete"
        return 0
    fi
    if [ "$limit" -lt 10 ]; then
        say "$name: not started, $left s left"
        return 0
    fi
    timeout --signal=INT --kill-after=5 "$limit" "$@" >"$results/$name.log" 2>&1 || status=$?
    say "$name: exit $status after $((SECONDS - start)) s of $limit"
    case $status in
        0) touch "$results/$name.done" ;;
        124 | 130 | 137) ;; # cut off, which is no failure
        *) failed=1 ;;
    esac
}

# bench NAME SECONDS SCRIPT...: a benchmark that writes NAME.csv.
bench() {
    local name=$1 limit=$2 script=$3
    shift 3
    part "$name" "$limit" "$python" -P "benchmarks/$script.py" --device cuda "$@" --out "$results/$name.csv"
}

if [ "$dry" = 0 ]; then
    "$python" -c 'import platform, torch, triton
print("python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())' 2>&1 | tee -a "$results/summary.txt"

    # fastgan is installed into a temporary folder, in every call; the packages of the machine are not changed. `-P`
    # keeps the checkout off sys.path, so that the installed package is imported; benchmarks/ is added for the modules
    # that the scripts share. CUDA C++ is compiled for this GPU only.
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    arch=$("$python" -c 'import torch; a = "%d%d" % torch.cuda.get_device_capability(); print(a + "a" * (a >= "90"))')
    export FASTGAN_CUDA_ARCHS=${FASTGAN_CUDA_ARCHS:-$arch}
    if timeout 120 "$python" -m pip install --no-deps --quiet --retries 1 --target "$site" . >"$results/install.log" 2>&1; then
        export PYTHONPATH=$site:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
    else
        say "install: failed; running from source, without the C++ extensions"
        failed=1
        export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
    fi
    "$python" -P -c 'import fastgan, fastgan._util.native as n
print("fastgan from", fastgan.__path__[0], "| C++:", n.why_not("_cpu") or "built", "| CUDA C++:", n.why_not("_cuda") or "built")' \
        2>&1 | tee -a "$results/summary.txt"
    if [ -n "${TRITON_CACHE_DIR:-}" ]; then
        say "kernels compiled beforehand: $("$python" -P benchmarks/precompile.py --relocate 2>&1 | tail -n 1)"
    fi
fi

# Most of the time of the tests is spent in compilers. `-P`: `-m pytest` would otherwise import the checkout in the
# current directory instead of the installation.
workers=$("$python" -c 'import xdist, os; print("-n", min(12, len(os.sched_getaffinity(0))))' 2>/dev/null)
part tests 150 "$python" -P -m pytest -m gpu $workers -q -rf -p no:benchmark -W ignore::pytest.PytestConfigWarning \
    --tb=short tests/ops tests/gpu

bench ceilings 20 ceilings
floors=()
if [ "$dry" = 1 ] || [ -e "$results/ceilings.csv" ]; then
    floors=(--ceilings "$results/ceilings.csv")
fi
bench host_cuda 30 host --seconds 0.05
bench steps_cuda 100 run --resume --only steps --seconds 0.03 "${floors[@]}"
bench profile_cuda 25 profile_steps
bench convolutions_cuda 110 convolutions --resume --seconds 0.01 "${floors[@]}"
bench spectral_norm_cuda 25 run --resume --only steps --case spectral_norm --seconds 0.05 "${floors[@]}"
bench updates_cuda 15 updates --seconds 0.05
bench bias_act_cuda 45 run --resume --only ops --case bias_act-leaky_relu --seconds 0.01 "${floors[@]}"
bench stylegan_ops_cuda 90 stylegan_ops --resume --seconds 0.01 "${floors[@]}"
eager=("eager channels_last" "hand-written graph" fastgan "fastgan graph")
bench training_cuda 100 end_to_end --resume --seconds 0.2 --only "${eager[@]}"
bench tasks_cuda 120 task_iterations --resume --seconds 0.3 --only "eager channels_last" fastgan "fastgan graph"
bench stylegan_steps_cuda 90 stylegan_steps --resume --side 256 --seconds 1
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ] || [ "$dry" = 1 ]; then
    part sanitizer 60 "${sanitizer:-compute-sanitizer}" --error-exitcode 3 "$python" -P benchmarks/tiny_ops.py --device cuda
else
    say "sanitizer: compute-sanitizer is not installed"
fi
part doctor 15 "$python" -P -m fastgan doctor --kernels
bench ops_cuda 60 run --resume --only ops --seconds 0.01 "${floors[@]}"
bench families_cuda 90 end_to_end --resume --families --seconds 0.1 --only "${eager[@]}"
bench deploy_cuda 60 deploy --seconds 0.3 --only eager "eager channels_last" "fastgan torch" "fastgan compile" onnxruntime
bench compiled_cuda 120 end_to_end --resume --seconds 0.2 --only compile "fastgan graph" "fastgan+compile"
bench tasks_compiled_cuda 120 task_iterations --resume --case esrgan --seconds 0.3 --only compile "fastgan+compile"
bench whole_cuda 60 run --resume --only steps --case wgan_gp --whole --seconds 0.05
if [ "$dry" = 0 ] && [ -n "${TRITON_CACHE_DIR:-}" ]; then
    say "kernels in the cache now: $(find "$TRITON_CACHE_DIR" -name '*.cubin' | wc -l)"
fi
exit "$failed"
