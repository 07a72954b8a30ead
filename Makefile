# Every target makes its environment first; `make PYTHON=/path/to/python3.12 test` picks another Python.
.DEFAULT_GOAL := run
.PHONY: run test soak lab bench check export clean

# The environment is made here: its modules are compiled once, whatever the shell says about that.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?=

$(READY): pyproject.toml constraints.txt tools/environment.sh
	@PYTHON="$(PYTHON)" tools/environment.sh "$(VENV)"

# trades config.toml; where its markets cannot be had, the embedded sample plays in desk/
run: $(READY)
	@$(BIN)/autotrader quickstart --sample-in desk $(RUN)

# three processes for two cores: some tests wait, for a clock or a child
test: $(READY)
	@AUTOTRADER_OFFLINE=1 $(BIN)/python -m pytest -q -n 3 --dist loadscope --ignore=tests/bench $(TESTS)

# the same tests, the random ones in full length
soak: $(READY)
	@AUTOTRADER_OFFLINE=1 AUTOTRADER_SOAK=1 $(BIN)/python -m pytest -q -n 3 --dist loadscope -o timeout=3600 --ignore=tests/bench $(TESTS)

lab: $(READY)
	@$(BIN)/jupyter lab nbs

bench: $(READY) .venv-bench/.ready
	@AUTOTRADER_OFFLINE=1 AUTOTRADER_PEERS=$(CURDIR)/.venv-bench/bin/python $(BIN)/python -m pytest tests/bench $(TESTS)

# vectorbt wants older pandas than ours: the peers get an environment of their own
.venv-bench/.ready: tools/peers.txt $(READY)
	@$(BIN)/python -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r tools/peers.txt
	@touch $@

check: $(READY)
	@$(BIN)/python tools/check.py

export: $(READY)
	@$(BIN)/python tools/export.py

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find autotrader nbs tests tools -name __pycache__ -prune -exec rm -rf {} +
