#!/usr/bin/env bash
# The first half hour on a GPU, in steps of at most ten minutes; docs/gpu.md says what each teaches.
#
#   benchmarks/gpu_steps.sh export           on any machine: the bundle
#   benchmarks/gpu_steps.sh check            what is installed, and the tests that need a GPU
#   benchmarks/gpu_steps.sh build            one TensorRT plan, compared with float32
#   benchmarks/gpu_steps.sh engines          TensorRT, ONNX Runtime and torch.compile in turns
#   benchmarks/gpu_steps.sh kernels          where the time of a call goes
#   benchmarks/gpu_steps.sh batches          which batch sizes are worth a profile
#   benchmarks/gpu_steps.sh service          requests a second over HTTP
#
# Each writes OUT/STEP.log, and ends with 1 if a command of it fails. DEVICE=cpu rehearses them: nothing is built, and
# engines for CPUs are measured.
set -uo pipefail
cd "$(dirname "$0")/.."

VARIANT=${VARIANT:-crossvit_18_dagger}
BUNDLE=${BUNDLE:-artifacts/$VARIANT}
WEIGHTS=${WEIGHTS:-auto}
OUT=${OUT:-artifacts/gpu}
DEVICE=${DEVICE:-cuda}
PHOTOS=${PHOTOS:-export/data/photos}
PYTHON=${PYTHON:-python}
LIMIT=${LIMIT:-570}  # seconds of a step

say() { printf '%s\n' "$*"; }

# Runs a command in what is left of the step's time. A failure is shown, and the next command follows.
try() {
    local left=$((LIMIT - SECONDS))
    ((left > 0)) || { say "left out, the time is up: $*"; return; }
    say "\$ $*"
    timeout --signal INT --kill-after 10 "$left" "$@"
    local code=$?
    ((code == 0)) && return
    say "exit code $code after $SECONDS s of $LIMIT s"
    failed=1
}

contest() {
    need timm || return
    try "$PYTHON" -m benchmarks.contest engines "$BUNDLE" --device "$DEVICE" --weights "$WEIGHTS" --photos "$PHOTOS" \
        --out "$OUT" "$@"
}

# Whether modules are installed; says what installs them.
need() {
    local module missing=()
    for module; do
        "$PYTHON" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" 2>/dev/null ||
            missing+=("$module")
    done
    ((${#missing[@]})) || return 0
    say "not installed: ${missing[*]}"
    say "$PYTHON -m pip install -c constraints.txt -e '.[export,gpu,nvimgcodec,dev,bench]' installs all"
    failed=1
    return 1
}

on_gpu() { [[ $DEVICE != cpu ]]; }

step_export() {
    try "$PYTHON" export/to_onnx.py --variant "$VARIANT" --weights "$WEIGHTS" --out "$BUNDLE" --precision fp16 bf16 \
        --if-changed
}

step_check() {
    on_gpu && try nvidia-smi
    if on_gpu; then need tensorrt cuda.bindings onnxruntime nvidia.nvimgcodec pytest timm; fi
    try "$PYTHON" export/to_trt.py --variant "$VARIANT" --bundle "$BUNDLE" --dry-run
    try "$PYTHON" -m pytest -m gpu -q --durations 10
}

step_build() {
    local dry=--if-changed
    on_gpu || dry=--dry-run
    try "$PYTHON" export/to_trt.py --variant "$VARIANT" --bundle "$BUNDLE" --resolutions 224 --batch-sizes 1 8 64 \
        --optimization-level 2 "$dry"
}

step_engines() {
    local contestants=tensorrt-fp16,onnxruntime-cuda-fp16,gpu-compile-bf16,gpu-eager-bf16
    on_gpu || contestants=eager,ours
    contest --contestants $contestants --batches 1,8,64 --compile-batches 64 --rounds 5 --seconds 0.5 --minutes 8
}

step_kernels() {
    local contestants=tensorrt-fp16,onnxruntime-cuda-fp16
    on_gpu || contestants=eager
    contest --batches 64 --profile $contestants --minutes 8
}

step_batches() {
    local sizes=(16 32 48 64 96) contestant=tensorrt-fp16
    on_gpu || contestant=ours
    if on_gpu; then
        try "$PYTHON" export/to_trt.py --variant "$VARIANT" --bundle "$BUNDLE" --resolutions 224 \
            --batch-sizes "${sizes[@]}" --optimization-level 2
    fi
    contest --contestants $contestant --batches "$(IFS=,; say "${sizes[*]}")" --compile-batches 64 --rounds 5 \
        --seconds 0.5 --minutes 8
}

step_service() {
    local jpeg port=${PORT:-8123}
    for jpeg in cpu gpu; do
        if ! on_gpu && [[ $jpeg == gpu ]]; then continue; fi
        say "\$ crossvit serve --bundle $BUNDLE --jpeg $jpeg --port $port"
        "$PYTHON" -m app serve --bundle "$BUNDLE" --jpeg "$jpeg" --port "$port" --log-level warning & local server=$!
        until curl --fail --silent --output /dev/null "http://127.0.0.1:$port/readyz"; do
            kill -0 $server 2>/dev/null && ((SECONDS < LIMIT)) || break
            sleep 0.5
        done
        try curl --fail --silent --show-error "http://127.0.0.1:$port/models"
        say
        try "$PYTHON" -m app bench "$PHOTOS" --url "http://127.0.0.1:$port" --clients 1,16,64,256 \
            --seconds "${BENCH_SECONDS:-8}"
        kill $server 2>/dev/null
        wait $server
    done
}

step=${1:-}
if ! declare -F "step_$step" >/dev/null; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
mkdir -p "$OUT"
failed=0
{ "step_$step" && ((failed == 0)); } 2>&1 | tee "$OUT/$step.log"
exit "${PIPESTATUS[0]}"
