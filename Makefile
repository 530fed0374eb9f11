# make demo, make test: everything they need is installed into .venv first.
#   DEVICE=cpu|cuda     which build of vLLM
#   PYTHON=python3.12   the interpreter that .venv is made with; otherwise requirements/python.sh chooses one
#   TORCH_INDEX=URL     where to find PyTorch's CPU build, if pip's own index only has the CUDA build
DEVICE ?= cpu
PYTHON ?=
TORCH_INDEX ?=
CACHE ?= .cache
BIN := .venv/bin
READY := .venv/.ready-$(DEVICE)
MODEL := $(CACHE)/SmolLM2-135M-Instruct

.PHONY: install demo test test-fast lint bench wheelhouse clean

install: $(READY)

$(READY): pyproject.toml requirements/cpu.txt requirements/cuda.txt requirements/quantize.txt \
    requirements/dev.txt requirements/install.sh requirements/python.sh
	PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash requirements/install.sh $(DEVICE)
	touch $(READY)

$(MODEL)/judge-demo-model.json: | $(READY)
	$(BIN)/judge demo-model $(MODEL)

# A judge of 135M parameters loses much in 4 bits, how much depends on chance, and an unsure one flips easily: the
# limits of drift are wide here and only catch what is broken.
demo: $(READY) $(MODEL)/judge-demo-model.json
	rm -rf demo-out && mkdir demo-out
	$(BIN)/judge data validate judge/demo/training.csv
	$(BIN)/judge train --config configs/smollm2-135m-cpu.yaml --model $(MODEL) --data judge/demo/training.csv \
	    -o demo-out/judge --device $(DEVICE)
	$(BIN)/judge merge demo-out/judge -o demo-out/merged
	$(BIN)/judge quantize demo-out/merged -o demo-out/judge-4bit --group-size 32 --samples 16 --sample-tokens 128 \
	    --device $(DEVICE) --no-drift
	$(BIN)/judge drift $(MODEL) demo-out/judge demo-out/merged demo-out/judge-4bit --data judge/demo/training.csv \
	    --device $(DEVICE) --max-log-loss 0.3 --max-flips 0.5
	$(BIN)/judge evaluate demo-out/judge/held_out.parquet judge/demo/training.csv --partial
	$(BIN)/judge report demo-out/judge/held_out.parquet judge/demo/training.csv --partial --model demo-out/judge \
	    -o demo-out/report.html
	$(BIN)/judge score demo-out/judge-4bit judge/demo/comparisons.csv -o demo-out/predictions.parquet \
	    --submission demo-out/submission.csv --swap all --device $(DEVICE)
	$(BIN)/judge check demo-out/submission.csv judge/demo/comparisons.csv
	head -n 4 demo-out/submission.csv

# The report is opened in a real browser.
test: $(READY) $(MODEL)/judge-demo-model.json
	bash requirements/browser.sh
	JUDGE_DEMO_MODEL="$(abspath $(MODEL))" $(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not engine and not training and not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) $(MODEL)/judge-demo-model.json
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/prepare.py
	$(BIN)/python bench/throughput.py --model $(MODEL)
	$(BIN)/python bench/training.py --model $(MODEL)
	$(BIN)/python bench/evaluate.py
	$(BIN)/python bench/planning.py --model $(MODEL)
	$(BIN)/python bench/faults.py --model $(MODEL)
	bash requirements/browser.sh
	$(BIN)/python bench/report_open.py

# Wheels for a machine without a network (docs/offline.md), for CUDA unless DEVICE says otherwise; core is judge alone.
# uv, which chooses them, is brought into .venv; nothing else of judge need be installed there.
WHEELHOUSE_DEVICE := $(if $(filter file,$(origin DEVICE)),cuda,$(DEVICE))
WHEELHOUSE_PYTHON ?= 3.12
WHEELHOUSE_GLIBC ?= 2.35
WHEELHOUSE ?= wheelhouse-$(WHEELHOUSE_DEVICE)

wheelhouse: $(BIN)/uv
	$(BIN)/python requirements/wheelhouse.py $(WHEELHOUSE_DEVICE) -o "$(WHEELHOUSE)" --python "$(WHEELHOUSE_PYTHON)" \
	    --glibc "$(WHEELHOUSE_GLIBC)" --torch-index "$(TORCH_INDEX)"

$(BIN)/uv:
	[ -x $(BIN)/python ] || { python=$$(PYTHON="$(PYTHON)" bash requirements/python.sh) && "$$python" -m venv .venv; }
	$(BIN)/python -m pip --disable-pip-version-check install --quiet "$$(grep '^uv==' requirements/dev.txt)"

clean:
	rm -rf .venv demo-out bench/out
