"""`judge calibrate`: corrections of probabilities.

Doors:

- `calibrate`: the stage: chooses one and proves it
- `fit`: how each kind is fitted
"""
