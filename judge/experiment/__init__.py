"""`judge experiment`: arms on the same rows.

Doors:

- `run`: the stage
- `settings`: `ExperimentSettings`
- `result`: `ExperimentResult`
- `record`: experiment.json
- `results_file`: results of arms as a table
- `arm_figures`: figures of arms
- `text`: results in words
- `words`: single values in words
"""
