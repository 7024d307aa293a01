# `make test` and `make demo` need Python 3.11 or later and nothing else.
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO := results/demo

.PHONY: help install format check test test-slow docs docs-serve demo study study-quick \
	study-original faults clean

help:
	@echo "make test       install into .venv, check style and types, build the manual, run the tests"
	@echo "make test-slow  run the proofs that take long, with all of the compiler's optimisation"
	@echo "make demo       install into .venv, train, evaluate and measure a small network on the CPU"
	@echo "make study      train and measure what study/ is about, for hours; goes on where it stopped"
	@echo "make study-original  train the networks of cifar_jax by its recipe, for hours on a GPU"
	@echo "make study-quick  the same on four tiny networks and procedural images, in minutes"
	@echo "make faults     kill, stop, starve and deceive runs for hours; Linux, as root"
	@echo "make docs       build the manual into site/; docs-serve shows it while you write"
	@echo "make format     format and fix what can be fixed"
	@echo "make clean      remove .venv and the demo's results"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or later with venv is needed: make PYTHON=path/to/python"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock --editable '.[dev,docs]'
	touch $@

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: check docs
	$(BIN)/pytest --quiet --numprocesses 2 --durations=10 -m 'not slow'

test-slow: export JAX_DISABLE_MOST_OPTIMIZATIONS = 0
test-slow: $(INSTALLED)
	$(BIN)/pytest --quiet --durations=10 -m slow

# Strict: a broken link or a missing reference fails. Nothing is fetched.
docs: export JAX_PLATFORMS = cpu
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(INSTALLED)
	$(BIN)/mkdocs build --quiet

docs-serve: $(INSTALLED)
	$(BIN)/mkdocs serve

# Procedural images, computed on the spot: the demo downloads nothing.
demo: export HF_HUB_OFFLINE = 1
demo: export JAX_PLATFORMS = cpu
demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/eqcifar train --dataset synthetic --arch resnet8 --epochs 5 --batch-size 100 \
		--lr 0.4 --loss ce --no-augment --limit-train 3000 --out $(DEMO)
	$(BIN)/eqcifar eval --out $(DEMO)
	$(BIN)/eqcifar sharpness --out $(DEMO) --split train,test --samples 300 \
		--measures trace,ntk

# Runs that are done are not trained or measured again.
study study-original: DATA ?= cifar10
study study-original: DATA100 ?= cifar100
study: $(INSTALLED)
	$(BIN)/eqcifar sweep --file study/sam.toml --dataset $(DATA) --out results/study
	$(BIN)/python -m study.sam measure results/study
	$(BIN)/python -m study.sam collect results/study
	$(BIN)/python -m study.sam page
	$(BIN)/eqcifar sweep --file study/minima.toml --dataset $(DATA) --out results/minima
	$(BIN)/eqcifar sweep --file study/minima_steps.toml --dataset $(DATA) --out results/minima
	$(BIN)/eqcifar sweep --file study/minima.toml --dataset $(DATA100) --out results/minima
	$(BIN)/eqcifar sweep --file study/minima.toml --dataset $(DATA) --out results/along \
		--lr 0.05 --batch-size 128 --seed 0 --keep-every 2
	$(BIN)/python -m study.minima measure results/minima
	$(BIN)/python -m study.minima halves results/minima
	$(BIN)/python -m study.minima epochs results/along
	$(BIN)/python -m study.samples results/minima
	$(BIN)/python -m study.minima collect results/minima
	$(BIN)/python -m study.minima page

# Networks and recipe of cifar_jax, for a GPU.
study-original: $(INSTALLED)
	$(BIN)/python -m study.original run results/original $(DATA100) $(DATA)
	$(BIN)/python -m study.original collect results/original
	$(BIN)/python -m study.original page

# The same way on four tiny networks and procedural images, and no page of the manual.
QUICK := results/study-quick
study-quick: export HF_HUB_OFFLINE = 1
study-quick: export JAX_PLATFORMS = cpu
study-quick: $(INSTALLED)
	mkdir -p $(QUICK)/tables
	$(BIN)/eqcifar sweep --file study/minima.toml --dataset synthetic --out $(QUICK) \
		--arch mlp --width 0.1 --subset 0.02 --epochs 4 --batch-size 50 --seed 0
	$(BIN)/python -m study.minima measure $(QUICK) --samples 40
	$(BIN)/python -m study.minima halves $(QUICK) --samples 40
	$(BIN)/python -m study.samples $(QUICK) --to $(QUICK)/tables
	$(BIN)/python -m study.minima collect $(QUICK) --samples 40 --to $(QUICK)/tables
	$(BIN)/python -m study.minima page --to $(QUICK)/tables

# As root, for small disks are mounted. ONLY="SIGKILL, SAM" takes some rows, and all that
# were tried before stay.
faults: $(INSTALLED)
	$(BIN)/python -m benchmarks faults $(if $(ONLY),--only "$(ONLY)")
	$(BIN)/python -m benchmarks tables

clean:
	rm -rf .venv site $(DEMO)
