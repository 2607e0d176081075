PYTHON ?= python3
PORT ?= 8000
VARIANT ?= crossvit_18_dagger
WEIGHTS ?= auto
LABELS ?=
TORCH_INDEX ?=
GPU ?=

BIN := .venv/bin
BUNDLE := artifacts/$(VARIANT)
ENGINES := $(if $(GPU),gpu,cpu)
EXTRAS := $(if $(GPU),gpu,cpu,quantize),export,otel,dev
INSTALLED := .venv/.installed-$(ENGINES)

.PHONY: serve test check audit format clean

serve: $(INSTALLED)
	$(BIN)/python export/to_onnx.py --variant $(VARIANT) --weights "$(WEIGHTS)" $(if $(LABELS),--labels "$(LABELS)") $(if $(GPU),--precision fp16,--quantize int8) --out $(BUNDLE) --if-changed
	$(if $(GPU),-$(BIN)/python export/to_trt.py --variant $(VARIANT) --bundle $(BUNDLE) --if-changed)
	$(BIN)/crossvit serve --bundle $(BUNDLE) --port $(PORT)

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[audit]'
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL="$(TORCH_INDEX)") $(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@
