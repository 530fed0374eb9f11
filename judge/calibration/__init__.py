"""`judge calibrate`: corrections of probabilities.

Doors:

- `bundle`: calibrates the judge in a bundle from files, and takes a calibration out again
- `calibrate`: the stage: chooses one and proves it
"""
