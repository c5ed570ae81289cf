# `make demo` and `make test` need only Python 3.10+; both use the same .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test faults testbeds docs clean smoke-study gpu

$(VENV)/.demo: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/mcl demo --out runs/demo

test: $(VENV)/.test
	# One thread a process, two processes: quicker than two threads on two cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal

# Kills, signals, full disks, fuzzing (docs/reliability.md); some need root for a small mount, else they are skipped.
# What they measure goes to benchmarks/faults.json, also when one fails; `make docs` then fills the tables.
faults: export MCL_FIGURES := $(CURDIR)/runs/faults.jsonl
faults: export OMP_NUM_THREADS := 1
faults: $(VENV)/.test
	@mkdir -p runs && rm -f "$$MCL_FIGURES"
	$(BIN)/python -m pytest tests -m faults -n 2 --dist worksteal; ended=$$?; \
	$(BIN)/python benchmarks/figures.py collect benchmarks/faults.json "$$MCL_FIGURES" && exit $$ended

# Sets to compare methods on, from Debian packages and PyPI (named in make.sh), into data/.
testbeds: $(VENV)/.demo
	PYTHON=$(BIN)/python sh benchmarks/testbeds/make.sh data

# On a machine with a GPU, in nine minutes: tests, steps, loader, short trainings; JSON in runs/gpu (docs/gpu.md).
# GPU_DRY=1: the same parts in small on the CPU, to see that they run.
gpu: $(VENV)/.test
	$(BIN)/python benchmarks/gpu.py --out runs/gpu $(if $(GPU_DRY),--dry)

clean:
	rm -rf $(VENV) runs

docs: $(VENV)/.demo
	$(BIN)/python -m mcl.run.reference > docs/reference.md
	$(BIN)/python benchmarks/docs.py

# A whole study in small, minutes on two cores; called again, it finds all cells done.
SMOKE := runs/smoke-data
$(SMOKE)/train.json: $(VENV)/.test
	rm -rf $(SMOKE)
	$(BIN)/mcl data demo --out $(SMOKE) --image_size 64 --classes 3 --max_objects 3 --min_size 0.3 --max_size 0.7 \
	    --unlabeled_objects 100 --unlabeled_scenes 100 --train_scenes 64 --test_scenes 24

smoke-study: $(SMOKE)/train.json
	$(BIN)/mcl compare benchmarks/studies/smoke.yaml --parallel 2
