"""`judge plan` and `judge rehearse`: what a scoring will take.

Doors:

- `plan`: from a config alone
- `layout`: a model on a machine
- `lengths`: lengths of a table's prompts
- `outcome`: hours with a range
- `time_model`: what a FLOP, a token and a prompt cost
- `probe`: this machine's rates, with random weights
- `rehearse`: the real engine on some rows
- `rehearsal`: what follows for all rows
- `rehearsal_rows`: which rows
- `rehearsal_text`: how it is said
"""
