# Two commands for a bare machine: `make demo` draws, `make test` tests. Both set everything up by themselves.
PYTHON ?= python3
PROMPT ?=
FAMILY ?= micro
SPEEDRUN_HOURS ?=
BIN := .venv/bin

.PHONY: demo test test-all install lint docs speedrun clean

ifeq ($(PROMPT),)
PROMPTS := 'two glossy 3D penguins on a mint background' 'a yellow sign that says "open" above a cup of coffee' \
           'a bicycle below a train on the left and a pineapple on the right' 'three strawberries pls'
else
export PROMPT
PROMPTS := "$$PROMPT"
endif

demo: ## draw four pictures (or yours: make demo PROMPT="...") into outputs/
	@$(PYTHON) scripts/install.py
	@$(BIN)/fourstroke generate $(PROMPTS) --seed 7 --out outputs --sheet outputs/sheet.png
	@echo "look at outputs/sheet.png"

test: ## the test suite: offline, on all cores, minutes on two
	@$(PYTHON) scripts/install.py test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-all: ## with the slow tests too
	@$(PYTHON) scripts/install.py test
	@$(BIN)/python -m pytest -m "not gpu"

install: ## .venv with every extra, for contributors
	@$(PYTHON) scripts/install.py all
	@$(BIN)/pre-commit install >/dev/null 2>&1 || true

lint: ## what pre-commit runs
	@$(PYTHON) scripts/install.py all
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: ## the documentation site, into site/: strictly, and offline once its packages are there
	@$(PYTHON) scripts/install.py docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "open site/index.html, or for the search: python3 -m http.server --directory site"

speedrun: ## train the whole chain from nothing: FAMILY=micro (two cores) or mini (one GPU); SPEEDRUN_HOURS=3 fits it into three, PROCESSES=2 shares its longest stages
	@$(PYTHON) scripts/install.py all
	@$(BIN)/fourstroke speedrun $(FAMILY) $(if $(SPEEDRUN_HOURS),--hours $(SPEEDRUN_HOURS)) $(if $(PROCESSES),--processes $(PROCESSES))

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache
