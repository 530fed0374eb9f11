"""`judge experiment`: arms on the same rows.

Doors:

- `run`: the stage
- `settings`: `ExperimentSettings`
- `result`: `ExperimentResult`
- `files`: experiment.json and results.parquet
- `arm_figures`: figures of arms
- `text`: how a plan, a metric and a speed are written
"""
