"""The recorded experiment on human comparisons: one training table and one held-out table, prompts apart.

The three source files are not part of the project; `--data FOLDER` is where they lie:
lmsys55k_subset_human.parquet (lmsys-arena-human-preference-55k, Apache-2.0), autoj_pairwise_test_human.parquet
(Auto-J), mt_bench_human_judgments.parquet (MT-Bench, CC-BY-4.0), each in the schema of the LMSYS contest.

    python bench/real_data.py --data FOLDER -o bench/out/real

The subset of LMSYS has hardly any ties, so all its ties are taken, the other two files with at most three rows a
prompt (MT-Bench has 80 prompts), and decided rows of LMSYS until ties are 31 %, as in the full data. A and B are
exchanged at random: in MT-Bench their order tells the verdict.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

FILES = {
    "lmsys": "lmsys55k_subset_human.parquet",
    "autoj": "autoj_pairwise_test_human.parquet",
    "mtbench": "mt_bench_human_judgments.parquet",
}
TIES = 0.31
ROWS_PER_PROMPT = 3
LABELS = ["winner_model_a", "winner_model_b", "winner_tie"]
COLUMNS = ["id", "prompt", "response_a", "response_b", *LABELS, "source", "group"]


def mixed(folder: Path, seed: int) -> pd.DataFrame:
    """Return the mixed table, shuffled, with A and B exchanged at random."""
    frames = {name: pd.read_parquet(folder / file).assign(source=name) for name, file in FILES.items()}
    lmsys = frames["lmsys"]
    ties = lmsys[lmsys["winner_tie"] == 1]
    others = pd.concat([frames["autoj"], frames["mtbench"]]).sample(frac=1, random_state=seed)
    others = others.groupby("group").head(ROWS_PER_PROMPT)
    all_ties = len(ties) + int((others["winner_tie"] == 1).sum())
    decided = round(all_ties / TIES) - len(others) - len(ties)
    sample = lmsys[lmsys["winner_tie"] == 0].sample(decided, random_state=seed)
    table = pd.concat([ties, sample, others]).sample(frac=1, random_state=seed).reset_index(drop=True)
    swap = np.random.default_rng(seed).random(len(table)) < 0.5
    for a, b in (("response_a", "response_b"), ("winner_model_a", "winner_model_b")):
        table.loc[swap, [a, b]] = table.loc[swap, [b, a]].to_numpy()
    table["id"] = np.arange(1, len(table) + 1)
    return table[COLUMNS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/out/real"))
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--train", type=int, nargs="*", default=[1000, 2000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = mixed(arguments.data, arguments.seed)
    # whole groups, in the shuffled order, until there are enough held-out rows
    sizes = table.groupby("group", sort=False).size()
    held = set(sizes.index[: int(np.searchsorted(sizes.cumsum(), arguments.held_out)) + 1])
    inside = table["group"].isin(held)
    arguments.output.mkdir(parents=True, exist_ok=True)
    table[inside].to_parquet(arguments.output / "held_out.parquet", index=False)
    rest = table[~inside]
    for rows in arguments.train:
        rest.head(rows).to_parquet(arguments.output / f"train-{rows}.parquet", index=False)
    rates = {
        name: frame[LABELS].mean().round(3).tolist() for name, frame in (("held out", table[inside]), ("rest", rest))
    }
    print(f"{int(inside.sum())} held-out rows, {len(rest)} others; class rates {rates}")


if __name__ == "__main__":
    main()
