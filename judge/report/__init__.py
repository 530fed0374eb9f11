"""All HTML: pages of evaluations and of experiments.

Doors:

- `page`: the one file
- `sections`: sections of an evaluation
- `model_sections`: sections of a judge's folder, and its loss curve as a file
- `run_sections`: sections of a run and its model
- `row_data`: the rows in the page's browser
- `experiment_page`: sections of an experiment
"""
