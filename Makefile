# make test    lint, types and all tests that end in minutes
# make lint    ruff and mypy only
# make demo    a three-node cluster that loses its leader, and its archive that loses nothing   (ARGS="--keep")
# make crash   kills and fails each system call that matters; what is too long for make test    (ARGS=…)
# make matrix  a kill, a switchover and a restore on each PostgreSQL, Patroni, DCS and kind of cluster, and Azure's emulator; fetches what is not here (ARGS=…)
# make torture breaks a real cluster at random, restores from its archive, and draws a report   (ARGS=…)
# make incidents breaks a real cluster in eight ways, and notes what status, doctor and page say of it, and when (ARGS=…)
# make kills   kills primaries, and counts the holes that they leave in archives               (ARGS=…)
# make simulate plays thousands of schedules of simulated faults                               (ARGS=…)
# make fuzz    makes up what others can write, and looks that nothing falls over it            (ARGS="--minutes 60")
# make bench   what an archived and a restored segment cost                                    (ARGS=…)
# make wheel   the installable file, and what it runs with (SBOM), in dist/
# make lock    the newest versions of all dependencies, with their hashes, into locks/
# make clean   remove what the above have made
#
# As root, which PostgreSQL refuses, everything but wheel and clean runs as another user on a copy: see tools/as-user.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.PHONY: test tests lint style types demo crash matrix torture incidents kills simulate fuzz bench venv wheel lock clean

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
ARGS ?=

ifeq ($(shell id -u),0)

test tests crash matrix torture kills:
	@exec tools/as-user --test-tools make $@ ARGS='$(subst ','\'',$(ARGS))'

incidents:
	@exec tools/with-small-disks 300 tools/as-user --test-tools make $@ ARGS='$(subst ','\'',$(ARGS))'

lint style types demo simulate fuzz bench venv:
	@exec tools/as-user make $@ ARGS='$(subst ','\'',$(ARGS))'

else

# mypy, which takes half a minute of one core, beside the tests; both are run to their end.
test: style
	$(MAKE) --no-print-directory --keep-going --jobs 2 types tests

# More workers than cores: most tests wait most of their time.
tests: $(READY)
	$(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

lint: style types

style: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)
	$(VENV)/bin/mypy

demo: $(READY)
	exec $(PYTHON) -m examples.demo $(ARGS)

crash: $(READY)
	$(PYTHON) -m pytest -m "slow and not matrix" --timeout 1200 $(ARGS)

# One cell each, and whatever else runs on each major. Without npm what needs Azurite is skipped.
matrix: $(READY)
	-tools/azurite
	for server in $$($(PYTHON) -m tests.matrix); do tools/postgres-from-debian $$server; done
	$(PYTHON) -m pytest -n 2 --timeout 900 tests/matrix tests/postgres tests/restore/test_restore_abandoned.py \
	    tests/restore/directory/test_incremental_real.py \
	    tests/agent/test_tail.py::test_what_pg_receivewal_has_written_is_known_to_the_byte \
	    tests/store/test_stores.py tests/agent/test_clouds.py $(ARGS)

torture: $(READY)
	exec $(PYTHON) -m tests.torture $(ARGS)

incidents: $(READY)
	exec $(PYTHON) -m tests.incidents $(ARGS)

kills: $(READY)
	exec $(PYTHON) -m benchmarks.torture $(ARGS)

simulate: $(READY)
	exec $(PYTHON) -m tests.simulation $(ARGS)

fuzz: $(READY)
	exec $(PYTHON) -m tests.fuzz $(ARGS)

bench: $(READY)
	exec $(PYTHON) -m benchmarks $(ARGS)

venv: $(READY)

# The tool knows whether there is anything to do.
.PHONY: $(READY)
$(READY):
	@tools/make-venv $(VENV)

endif

wheel:
	tools/make-wheel

lock:
	tools/lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	tools/as-user --forget
