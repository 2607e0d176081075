PYTHON ?= python3
PORT ?= 8000
VARIANT ?= crossvit_9_dagger
WEIGHTS ?=
LABELS ?=
EXPORT ?=
QUANTIZE ?=
GPU ?=
RESOLUTIONS ?= default
PHOTOS ?= export/data/photos
TORCH_INDEX ?=

BIN := .venv/bin
BUNDLE := artifacts/$(VARIANT)
ENGINES := $(if $(GPU),gpu,cpu)
# Stages of one environment: what serving needs, then what 8 bits, or tests, training and export need too.
SERVING := .venv/.serving-$(ENGINES)
QUANTIZING := .venv/.quantizing
INSTALLED := .venv/.installed-$(ENGINES)

# Imported modules keep their bytecode. Compiling all installed modules (--no-compile below) would take a minute.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test test-all graphs protocol screenshots check audit lock sbom dist bench-bundles bench bench-full format clean

MADE_FROM = "$(or $(WEIGHTS),$(VARIANT))" $(if $(LABELS),--labels "$(LABELS)") $(EXPORT)
serve: $(SERVING) $(if $(QUANTIZE),$(QUANTIZING))
ifdef GPU
	$(BIN)/crossvit pull $(MADE_FROM) --precision fp16 --out $(BUNDLE) --if-changed
	-$(BIN)/python export/to_trt.py --variant $(VARIANT) --bundle $(BUNDLE) --resolutions $(RESOLUTIONS) --if-changed
	$(BIN)/crossvit serve --bundle $(BUNDLE) --port $(PORT)
else
	$(BIN)/crossvit serve $(MADE_FROM) $(if $(QUANTIZE),--quantize "$(QUANTIZE)") --port $(PORT)
endif

INSTALL = $(BIN)/python -m pip install --no-compile -c constraints.txt
INSTALL_TORCH = $(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL="$(TORCH_INDEX)") $(INSTALL)
INSTALL_BENCH = $(INSTALL_TORCH) --quiet -e '.[bench]'

# Three processes on two cores, since many tests wait: for time to pass, or for a service to start.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3
test: $(INSTALLED)
	$(PYTEST)

test-all: $(INSTALLED)
	$(INSTALL_TORCH) --quiet -e '.[bench,ray]'
	FUZZ=$${FUZZ:-1} $(PYTEST) -m "exhaustive or not exhaustive"

# The graph templates that ship: whenever the network or its export has changed. They are committed.
graphs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m export.ship_templates

# What the service knows of its gRPC messages: whenever app/grpc_api/open_inference.proto has changed. It is committed.
protocol: $(INSTALLED)
	$(BIN)/python -m grpc_tools.protoc -Iapp/grpc_api --descriptor_set_out=app/grpc_api/open_inference.binpb open_inference.proto

# The pictures of the page in docs/page. They need Chromium, and are best with the font Inter.
screenshots: $(INSTALLED)
	$(BIN)/crossvit pull $(MADE_FROM) --out $(BUNDLE) --if-changed
	$(BIN)/python -m benchmarks.screenshots $(BUNDLE)

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --constraints constraints.txt --all-extras pyproject.toml >/dev/null  # the pins fit PyTorch for CUDA too

audit: $(INSTALLED)
	$(INSTALL) --quiet -e '.[audit]'
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

# The packages that the images install, as in constraints.txt, with hashes.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --constraints constraints.txt
lock: $(INSTALLED)
	$(LOCK) --output-file docker/locks/build.txt --group image-build
	$(LOCK) --output-file docker/locks/cpu.txt --extra cpu --extra grpc --extra otel pyproject.toml
	$(LOCK) --output-file docker/locks/cpu-quantize.txt --extra cpu --extra grpc --extra otel --extra quantize pyproject.toml
	$(LOCK) --output-file docker/locks/gpu-common.txt --extra grpc --extra otel --extra half-precision pyproject.toml
	$(LOCK) --output-file docker/locks/gpu.txt --extra grpc --extra otel --extra gpu --extra nvimgcodec pyproject.toml

# From what is committed: docs/release.md.
dist: $(INSTALLED)
	rm -rf artifacts/dist
	mkdir -p artifacts/dist/source
	git archive HEAD | tar -x -C artifacts/dist/source
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir artifacts/dist artifacts/dist/source
	rm -r artifacts/dist/source
	ls -l artifacts/dist

sbom: $(INSTALLED)
	$(INSTALL) --quiet -e '.[sbom]'
	mkdir -p artifacts/sbom
	for name in cpu gpu; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file artifacts/sbom/$$name.cdx.json docker/locks/$$name.txt || exit 1; done

CONTEST = $(BIN)/python -m benchmarks.contest
NETWORKS := artifacts/crossvit_18_dagger artifacts/crossvit_9_dagger
MEASURED = --photos "$(PHOTOS)" --weights "$(or $(WEIGHTS),auto)"
bench-bundles: $(INSTALLED)
	$(INSTALL_BENCH)
	for bundle in $(NETWORKS); do $(BIN)/python export/to_onnx.py --variant $${bundle#artifacts/} --weights "$(or $(WEIGHTS),auto)" --quantize int8 --out $$bundle --if-changed || exit 1; done

# Measured in artifacts/, which git ignores: so the results name a commit without changes.
bench: bench-bundles
	rm -rf artifacts/bench
	$(CONTEST) engines $(NETWORKS) $(MEASURED)
	$(CONTEST) services artifacts/crossvit_18_dagger $(MEASURED)
	$(CONTEST) services artifacts/crossvit_9_dagger --clients 1,16 $(MEASURED)
	cp artifacts/bench/results.json docs/bench/
	$(CONTEST) report --out docs/bench --readme README.md

bench-full: bench-bundles
	rm -rf artifacts/bench
	$(CONTEST) engines $(NETWORKS) --contestants eager,autocast,compile,compile-bf16,onnxruntime,openvino,ours,ours-f32,ours-int8 --resolutions 224,384 --batches 1,8,32 --compile-batches 1,8,32 --rounds 9 --seconds 3 $(MEASURED)
	$(CONTEST) services $(NETWORKS) --shares 0.2,0.5,0.8 --rounds 5 --seconds 15 $(MEASURED)
	mkdir -p docs/bench/full
	cp artifacts/bench/results.json docs/bench/full/
	$(CONTEST) report --out docs/bench/full

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(SERVING): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip  # the pip of 2023 in Python 3.11 takes twice as long
	$(INSTALL) -e '.[$(ENGINES)]'
	touch $@

$(QUANTIZING): $(SERVING)
	$(INSTALL) -e '.[quantize]'
	touch $@

$(INSTALLED): $(SERVING)
	$(INSTALL_TORCH) -e '.[$(if $(GPU),gpu,cpu,quantize),export,train,otel,dev]'
	touch $@
