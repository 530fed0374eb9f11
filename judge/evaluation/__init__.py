"""`judge evaluate`, `compare`, `ensemble`: what predictions are worth on labelled rows.

Doors:

- `settings`: the settings of all three
- `evaluate`: the stage
- `compare`: two judges on the same rows
- `ensemble`: several judges blended
- `ensemble_files`: the same from files into files
- `judged_rows`: predictions and labels, joined by id
- `members`: predictions of several judges for the same rows
- `shown_row`: one row with what was predicted for it
- `row_facts`: lengths, languages, models and cuts of rows
- `quality`: figures of probabilities
- `reliability`: calibration in bins
- `slices`: figures of kinds of rows
- `agreement`: agreement as benchmarks count it
- `bias`: seven biases
- `bias_effects`: when one is called present
- `self_preference`: scores of the models that were judged
"""
