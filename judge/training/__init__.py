"""`judge train`.

Doors:

- `train`: the stage, from labelled tables to a bundle
- `settings`: `TrainSettings`
- `heldout`: the held-out figures as a table
- `model`: the model to train
"""
