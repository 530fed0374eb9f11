"""All HTML: pages of evaluations and of experiments.

Doors:

- `page`: the one file
- `sections`: sections of an evaluation
- `run_sections`: sections of a run and its model
- `row_data`: the rows in the page's browser
- `experiment_page`: sections of an experiment
"""
