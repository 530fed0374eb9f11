"""The demo's tables and model.

Doors:

- `model`: fetches the model
"""
