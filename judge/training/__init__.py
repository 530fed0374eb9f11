"""The parts of training; `judge.train` puts them together."""
