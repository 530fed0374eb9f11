"""All HTML: pages of evaluations and of experiments.

Doors:

- `evaluation_page`: the page of an evaluation
- `experiment_page`: the page of an experiment
- `model_sections`: sections of a judge's folder, and its loss curve as a file
"""
