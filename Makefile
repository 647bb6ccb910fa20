# make run      set up and serve the embedded model on http://127.0.0.1:8788
# make test     set up and run all tests
# make test-clients  run the clients of other projects against a server, in a separate environment (about 900 MB)
# make clients  install them there, for the examples of docs/how-to/clients.md
# make setup    create .venv for the server; make dev adds the development tools
# make kernels  compile the native CPU kernels, which make setup does where there is a C++ compiler
# make lint     formatting, lint, types, import contracts, dead code
# make smoke    start a server, check its endpoints and stream speech to it
# make loadtest load-test a server: ARGS="--sessions 12 --minutes 30", "--ramp 40", … (make soak is an alias)
# make bench    time per stage, memory and lanes with CONFIG
# make bench-peers  benchmark against comparable projects, in separate environments (large download)
# make evaluate  ask CONFIG what it was not trained on, in voices it never heard; Whisper judges the answers
# make vendor   download the pages' third-party files with npm; part of make setup where npm is installed
# make install  install the packet-voice command and a user service that need no checkout (docs/how-to/installation.md)
# make image-steps  build and test the container image without a container engine
# make docs     regenerate the tables in docs/reference/configuration.md
# make goldens  regenerate the golden files with the official package (large download)

PYTHON ?= python3
CONFIG ?= configs/tiny
VENV   := .venv
BIN    := $(VENV)/bin
CLIENTS := .clients
SPEECH := tests/data/speech.wav

# The MLX backend. Metal needs no extra; Linux uses CUDA if there is an NVIDIA driver, else the CPU.
ifeq ($(shell uname -s),Linux)
BACKEND ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
endif
comma := ,
# The paths of make install; pipeline/install/paths.py computes them the same way.
HOME_VENV := $(or $(filter /%,$(XDG_DATA_HOME)),$(HOME)/.local/share)/packet-voice/venv
HOME_BIN  := $(HOME)/.local/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# pip says what failed, in its own words; what it is for, and what to do, is said here.
NOT_INSTALLED = { echo "The packages could not be installed, see above. It takes the network and free disk space;" \
  "behind a proxy set HTTPS_PROXY, for an index of your own PIP_INDEX_URL. Run make again to continue." >&2; exit 1; }

.PHONY: run test test-clients clients setup dev kernels lint format smoke loadtest soak bench bench-peers evaluate \
  vendor install image-steps docs \
  goldens clean

run: setup
	@echo "Starting the server. It says what to open when it is ready; Ctrl-C stops it." >&2
	PACKET_VOICE_STARTED_BY=make $(BIN)/python -m pipeline.run --config $(CONFIG) $(ARGS)

# What the tests of a part need besides Python; where it is missing, they are skipped.
NEEDED = "chromium the pages in a browser" "haproxy replicas behind a load balancer" \
  "espeak-ng the synthesized training speech" "npm voice detection and Whisper in the pages" "jq reading logs with jq"

test: dev
	@for each in $(NEEDED); do tool=$${each%% *}; PATH="$$PATH:/usr/sbin" command -v $$tool >/dev/null || \
	  echo "$$tool is not installed: tests of $${each#* } are skipped" >&2; done
	$(BIN)/python -m pytest $(ARGS)

clients: $(CLIENTS)/.ready $(CLIENTS)/.opus

test-clients: dev clients
	$(BIN)/python -m pytest tests/clients $(ARGS)

# `moshi` itself would bring PyTorch, which its client does not use.
$(CLIENTS)/.ready: tests/clients/requirements.txt tests/clients/constraints.txt | $(BIN)/python
	@echo "Installing pipecat, LiveKit agents and Moshi's client in $(CLIENTS): about 900 MB." >&2
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/clients/constraints.txt \
	  --requirement tests/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps moshi==0.2.13
	@touch $@

# What the web clients of Moshi and PersonaPlex use; without npm their test is skipped.
$(CLIENTS)/.opus: tests/clients/package-lock.json
	@mkdir -p $(CLIENTS)
	@cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	@if command -v npm >/dev/null; then npm ci --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund --silent && \
	  touch $@; else echo "npm is not installed: the test of the web clients is skipped" >&2; fi

setup: $(VENV)/.setup $(VENV)/.kernels $(VENV)/.vendored
dev: $(VENV)/.dev $(VENV)/.kernels $(VENV)/.vendored

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is required; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(VENV) cannot be created here: is the folder writable, and the disk not full?" >&2; exit 1; }

# About 350 MB with the CPU backend: MKL 130, NumPy 75, MLX 40.
$(VENV)/.setup: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the server in $(VENV): $(if $(filter cuda%,$(BACKEND)),several GB with CUDA,about 350 MB)," \
	  "a few minutes the first time." >&2
	@$(INSTALL) --editable ".$(if $(BACKEND),[$(BACKEND)])" || $(NOT_INSTALLED)
	@touch $@

# Without a compiler this says so and succeeds: the server runs without them, more slowly. GPUs do not need them.
$(VENV)/.kernels: $(wildcard pipeline/kernels/*.py pipeline/kernels/native/* pipeline/kernels/native/*/*) $(VENV)/.setup
	@$(if $(filter cpu,$(BACKEND)),$(BIN)/python -m pipeline.kernels.build)
	@touch $@

kernels: $(VENV)/.setup
	@$(BIN)/python -m pipeline.kernels.build

# Voice detection and Whisper for the pages. They are optional; the pages report what is missing.
$(VENV)/.vendored: web/vendor.lock.json | $(VENV)/.setup
	@if command -v npm >/dev/null && $(BIN)/python -m web.vendor; then touch $@; else \
	  echo "Voice detection and Whisper are not installed: install npm, then run make vendor" >&2; fi

$(VENV)/.dev: $(VENV)/.setup
	@echo "Installing the development tools in $(VENV): about 450 MB more, a few minutes the first time." >&2
	@$(INSTALL) --editable ".[$(if $(BACKEND),$(BACKEND)$(comma))test,lint]" || $(NOT_INSTALLED)
	@touch $@

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/hadolint configs/docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec configs/docker/*.yaml

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

smoke: setup
	$(BIN)/python -m pipeline smoke --config $(CONFIG) --in $(SPEECH)

loadtest: dev
	$(BIN)/python -m pipeline loadtest --config $(CONFIG) $(ARGS)

# As it was called before.
soak: loadtest

bench: dev
	$(BIN)/python -m pipeline bench --config $(CONFIG) $(ARGS)

bench-peers: dev
	PYTHONPATH=tests $(BIN)/python -m benchmarks.peers $(ARGS)

# Half a minute of the formant synthesizer, and once a quarter of an hour or more of the neural ones.
evaluate: export PACKET_VOICE_TRAIN_CACHE ?= build/train
evaluate: dev
	$(INSTALL) --editable ".[train-voices,judge]"
	$(BIN)/python -m pipeline.train.corpus --out $(PACKET_VOICE_TRAIN_CACHE)/corpus --utterances 0
	$(BIN)/python -m pipeline.train.record --part evaluation
	$(BIN)/python -m pipeline.train.evaluate --config $(CONFIG) $(ARGS)

vendor: $(VENV)/.setup
	$(BIN)/python -m web.vendor

# Without this, files left in build/lib by an older version would end up in the wheel.
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is required; choose one with: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m web.vendor
	rm -rf build/lib build/bdist.*
	@test -x "$(HOME_VENV)/bin/python" || $(PYTHON) -m venv "$(HOME_VENV)" || \
	  { echo "Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; \
	    rm -rf "$(HOME_VENV)"; exit 1; }
	"$(HOME_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  ".$(if $(BACKEND),[$(BACKEND)])"
	@$(if $(filter cpu,$(BACKEND)),"$(HOME_VENV)/bin/python" -m pipeline.kernels.build)
	@mkdir -p "$(HOME_BIN)"
	ln -sf "$(HOME_VENV)/bin/packet-voice" "$(HOME_BIN)/packet-voice"
	@case ":$$PATH:" in *":$(HOME_BIN):"*) ;; *) echo "Add $(HOME_BIN) to your PATH to run packet-voice" ;; esac
	"$(HOME_BIN)/packet-voice" service install $(ARGS)

image-steps: dev
	PYTHONPATH=tests $(BIN)/python tests/install/image_steps.py $(ARGS)

docs: setup
	$(BIN)/python -m pipeline config-reference --write docs/reference/configuration.md

goldens:
	tests/goldens/make-goldens

clean:
	rm -rf $(VENV) $(CLIENTS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
