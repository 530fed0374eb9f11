"""`judge data`: labelled tables before training; made-up tables.

Doors:

- `tables`: validate, split, dedupe
- `mix`: tables mixed
- `describe`: what a table holds
- `mock_table`: a made-up table like a given one
"""
