"""`judge score`.

Doors:

- `scorer`: `Scorer`: a model, a template and settings
- `settings`: `ScoreSettings`, and what they come to for a model
- `reading`: shards through a pool
- `recalibrate`: another calibration for finished predictions
- `quick_submission`: a submission without a model
"""
