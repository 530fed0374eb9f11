"""What is measured of predictions on labelled rows; `judge.evaluate` puts it together."""
