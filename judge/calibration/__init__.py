"""Corrections of probabilities: what one is and how it is fitted. `judge.calibrate` chooses and judges it."""
