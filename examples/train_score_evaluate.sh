#!/usr/bin/env bash
# Trains a judge, scores a table with it and says how good it is:
#   examples/train_score_evaluate.sh MODEL OUT [more flags of judge train]
# MODEL is a folder with a chat model (after `make demo`: .cache/SmolLM2-135M-Instruct), OUT a new folder.
# Put your own tables in the place of the demo's. judge must be on the path: PATH=.venv/bin:$PATH
set -euo pipefail
model=$1 out=$2
shift 2
demo=$(dirname "$0")/../judge/demo

mkdir "$out"
judge train --model "$model" --data "$demo/training.csv" -o "$out/judge" \
    --template minimal --max-tokens 512 --holdout 0.25 --epochs 3 --learning-rate 3e-4 "$@"
judge score "$out/judge" "$demo/comparisons.csv" -o "$out/predictions.parquet" --swap all
judge evaluate "$out/predictions.parquet" "$demo/comparisons.csv"
