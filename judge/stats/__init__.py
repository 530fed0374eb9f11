"""Numbers with intervals.

Doors:

- `metrics`: log loss, accuracy, calibration errors of rows
- `resample`: intervals over prompt groups
- `words`: intervals and p-values as text
- `permutation`: p-values of paired differences
- `softmax_fit`: conditional logits
"""
