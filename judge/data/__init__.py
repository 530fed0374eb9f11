"""`judge data` and `judge mock-table`: tables checked, split, mixed and described; a table's rows drawn again.

Doors:

- `tables`: validate, split, dedupe
- `mix`: tables mixed
- `describe`: what a table holds
- `mock_table`: a table's rows drawn again
"""
