"""Numbers of rows, and their files.

Doors:

- `predictions`: `Predictions` of one run
- `file`: what a stored file holds
- `submission`: contest entries
"""
