# Two commands: `make run` (the main job, or CONFIG=my.yaml) and `make test`. Both set up .venv first; only Python 3.11 is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?=
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# What `make test-slow` runs: all slow tests, or the files named here.
SLOW ?= tests
# Snakemake and its plugins keep their caches here, so that an unwritable HOME is no obstacle.
export XDG_CACHE_HOME := $(CURDIR)/.venv/cache
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SNAKEMAKE = .venv/bin/snakemake --cores $(CORES) --profile workflow/profiles/default $(if $(CONFIG),--configfile "$(CONFIG)")

.PHONY: run test test-avx2 test-slow setup oracles findings lock clean

run: .venv/.runtime
	@$(SNAKEMAKE) --quiet rules host reason
	@.venv/bin/python workflow/scripts/headline.py $(if $(CONFIG),"$(CONFIG)")

setup: .venv/.runtime

# The judges of designs (see docs/designs.md): about 250 MB that nothing else needs.
oracles: .venv/.oracles

test: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/mypy
	.venv/bin/snakemake --lint
	.venv/bin/pytest -m "not slow" -n $(CORES) --dist loadfile -q tests

# The same as on a processor that knows no bfloat16 and no AVX-512, whatever this one knows.
test-avx2: export ATEN_CPU_CAPABILITY := avx2
test-avx2: export ONEDNN_MAX_CPU_ISA := AVX2
test-avx2: export MKL_ENABLE_INSTRUCTIONS := AVX2
test-avx2: export NUMBA_CPU_NAME := haswell
test-avx2: test

test-slow: .venv/.dev
	.venv/bin/pytest -m slow -n $(CORES) --dist loadfile -q -rs --durations=10 $(SLOW)

.venv/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "antibody-sae needs Python 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "making .venv"
	@"$(PYTHON)" -m venv .venv

.venv/.runtime: envs/requirements.lock | .venv/bin/python
	@.venv/bin/python envs/install.py envs/requirements.lock
	@echo "$(CURDIR)/workflow/lib" > "$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/antibody_sae.pth"
	@touch $@

.venv/.dev: envs/dev.lock .venv/.runtime
	@.venv/bin/python envs/install.py envs/dev.lock
	@touch $@

.venv/.oracles: envs/oracles.lock .venv/.runtime
	@.venv/bin/python envs/install.py envs/oracles.lock
	@touch $@

# The page of findings and the README's list of them, from the tables of four runs.
findings: .venv/.runtime
	.venv/bin/python docs/findings.py results/study results/layers results/natural results/levers

lock: | .venv/bin/python
	.venv/bin/python envs/lock.py

clean:
	rm -rf .venv .snakemake
