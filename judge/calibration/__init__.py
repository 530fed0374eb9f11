"""`judge calibrate`: corrections of probabilities.

Door:

- `calibrate`: the stage: chooses one and proves it
"""
