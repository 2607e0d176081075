PYTHON ?= python3
PORT ?= 8000
VARIANT ?= crossvit_9_dagger
WEIGHTS ?= auto
LABELS ?=
EXPORT ?=
TORCH_INDEX ?=
QUANTIZE ?= int8
GPU ?=
PHOTOS ?= export/data/photos

BIN := .venv/bin
BUNDLE := artifacts/$(VARIANT)
ENGINES := $(if $(GPU),gpu,cpu)
EXTRAS := $(if $(GPU),gpu,cpu,quantize),export,train,otel,dev
INSTALLED := .venv/.installed-$(ENGINES)

# Imported modules keep their bytecode. Compiling all installed modules (--no-compile below) would take a minute.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test test-all check audit lock sbom bench bench-full format clean

serve: $(INSTALLED)
	$(BIN)/python export/to_onnx.py --variant $(VARIANT) --weights "$(WEIGHTS)" --labels "$(LABELS)" $(EXPORT) $(if $(GPU),--precision fp16,--quantize "$(QUANTIZE)") --out $(BUNDLE) --if-changed
	$(if $(GPU),-$(BIN)/python export/to_trt.py --variant $(VARIANT) --bundle $(BUNDLE) --if-changed)
	$(BIN)/crossvit serve --bundle $(BUNDLE) --port $(PORT)

# Three processes on two cores, since many tests wait: for time to pass, or for a service to start.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3
test: $(INSTALLED)
	$(PYTEST)

test-all: $(INSTALLED)
	FUZZ=$${FUZZ:-1} $(PYTEST) -m "exhaustive or not exhaustive"

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --constraints constraints.txt --all-extras pyproject.toml >/dev/null  # the pins fit PyTorch for CUDA too

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[audit]'
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

# The packages that the images install, as in constraints.txt, with hashes; PyTorch is in docker/cpu.Dockerfile.
LOCK = echo torch | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --constraints constraints.txt --excludes /dev/stdin
lock: $(INSTALLED)
	$(LOCK) --output-file docker/locks/build.txt --group image-build
	$(LOCK) --output-file docker/locks/cpu.txt --extra cpu --extra otel pyproject.toml
	$(LOCK) --output-file docker/locks/cpu-export.txt --extra cpu --extra otel --extra export --extra quantize pyproject.toml
	$(LOCK) --output-file docker/locks/gpu-common.txt --extra otel --extra export pyproject.toml
	$(LOCK) --output-file docker/locks/gpu.txt --extra otel --extra export --extra gpu --extra nvimgcodec pyproject.toml

sbom: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[sbom]'
	mkdir -p artifacts/sbom
	for name in cpu gpu; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file artifacts/sbom/$$name.cdx.json docker/locks/$$name.txt || exit 1; done

bench: BENCH := --out docs/bench --readme README.md
bench-full: BENCH := --full --out docs/bench/full
bench bench-full: $(INSTALLED)
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL="$(TORCH_INDEX)") $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	for name in crossvit_18_dagger crossvit_9_dagger; do $(BIN)/python export/to_onnx.py --variant $$name --weights "$(WEIGHTS)" --quantize int8 --out artifacts/$$name --if-changed || exit 1; done
	$(BIN)/python -m benchmarks.contest.cpu --photos "$(PHOTOS)" --weights "$(WEIGHTS)" $(BENCH) --command "make $@$(if $(filter-out export/data/photos,$(PHOTOS)), PHOTOS=…)"

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip  # the pip of 2023 in Python 3.11 takes twice as long
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL="$(TORCH_INDEX)") $(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@
