"""`judge plan` and `judge rehearse`: what a scoring will take.

Doors:

- `plan`: from a config alone
- `layout`: a model on a machine
- `lengths`: lengths of a table's prompts
- `forecast`: hours with a range, and what to change
- `time_model`: what a FLOP, a token and a prompt cost
- `rehearse`: the real engine on some rows
- `rehearsal`: what follows for all rows, and how it is said
- `rehearsal_rows`: which rows
"""
