# On Debian or Raspberry Pi OS with git, make and python3 nothing else has to be there beforehand.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PYZ := build/pibot.pyz
TEST_PACKAGES := mosquitto mosquitto-clients systemd openssl libfaketime bubblewrap
TARGET_PACKAGES := debootstrap debian-archive-keyring qemu-user-static mosquitto
HARDWARE_PACKAGES := debootstrap debian-archive-keyring qemu-system-arm qemu-system-x86
SYSTEM_PACKAGES := debootstrap debian-archive-keyring systemd-container iproute2
JOBS ?= 2
SOURCES := $(shell find src -type f ! -name '*.pyc')
BUILDER := build/make_pyz.py build/parts.py build/wheels.py build/pyz_main.py build/fallback/jiter.py
LOCKS := $(wildcard requirements/*.txt)

.DEFAULT_GOAL := help
.PHONY: help venv pyz release lock demo test test-llm test-system test-hardware check-targets
.PHONY: lint bench sim chaos soak fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

venv: $(READY) ## .venv with the locked packages and PiBot itself

pyz: $(PYZ) ## build/pibot.pyz for this machine

release: venv ## build/pibot.pyz for every supported machine, with its .sha256
	@$(PY) build/make_pyz.py --release

lock: venv ## after a change of versions: accept the wheels that the index offers for them
	@$(PY) build/make_pyz.py --lock

demo: pyz ## a broker, a master and two workers on this machine, then a prompt
	@if [ -t 0 ]; then $(PYZ) demo; else $(PYZ) demo --once; fi

test: lint pyz ## everything that CI checks
	@build/apt-need $(TEST_PACKAGES)
	$(PY) -m pytest -q -n $(JOBS) --dist loadfile

test-llm: pyz ## the tests that talk to a real model
	$(PY) -m pytest -q -m llm

test-system: release ## the guides typed line by line into Debian machines; as root
	@build/apt-need $(SYSTEM_PACKAGES)
	$(PY) -m pytest -q -m system tests/system

test-hardware: venv ## the hardware skills on the kernels of an emulated Pi and PC
	@build/apt-need $(HARDWARE_PACKAGES)
	$(PY) -m pytest -q -m system tests/hardware

check-targets: release ## the release file on every Pi's userland and each Python here
	@build/apt-need $(TARGET_PACKAGES)
	@$(PY) build/check_targets.py $(if $(ONLY),--only $(ONLY))

lint: venv ## formatting, style and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict

bench: pyz ## the benchmarks
	$(PY) bench/run.py
	@echo
	$(PY) bench/start.py
	@echo
	$(PY) bench/signing.py
	@echo
	$(PY) bench/sandbox.py

sim: SEEDS ?= 2000
sim: venv ## the protocol under simulated faults: SEEDS=2000, or SEED=42 [BUG=NAME] with its timeline
	@PYTHONPATH=src:tests $(PY) -m sim.run \
	    $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(if $(BUG),--bug $(BUG))

chaos: N ?= 300
chaos: pyz ## N=300 tasks on a real fleet whose processes, network, disks and clocks fail
	@build/apt-need $(TEST_PACKAGES)
	@$(PY) bench/chaos.py --tasks $(N) $(if $(SEED),--seed $(SEED))

soak: SECONDS ?= 3600
soak: pyz ## an hour of mixed work: memory, descriptors, threads and files must not grow
	@build/apt-need $(TEST_PACKAGES)
	@$(PY) bench/soak.py --seconds $(SECONDS) --csv build/stage/soak.csv

fuzz: N ?= 100000
fuzz: venv ## N=100000 bad payloads for each decoder
	@$(PY) bench/fuzz.py --payloads $(N)

clean: ## remove what was built
	rm -rf $(VENV) build/stage build/*.pyz build/*.sha256 dist .mypy_cache .ruff_cache .pytest_cache

$(PYZ): $(READY) $(BUILDER) $(SOURCES)
	@$(PY) build/make_pyz.py

$(READY): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 9) or sys.exit("PiBot needs Python 3.9 or newer.")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || build/apt-need python3-venv
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages into $(VENV)" >&2
	@run=$$($(PY) -c 'import sys; print("py310" if sys.version_info >= (3, 10) else "py39")') && \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps \
	    -r requirements/run-$$run.txt -r requirements/dev.txt && \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
