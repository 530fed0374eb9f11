"""`judge experiment`: arms on the same rows.

Doors:

- `run`: the stage
- `settings`: `ExperimentSettings`
- `result`: `ExperimentResult`
- `files`: experiment.json and results.parquet
- `arm_figures`: figures of arms
- `text`: how metrics and differences are written
"""
