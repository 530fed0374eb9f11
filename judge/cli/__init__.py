"""The command line: `judge X` is the module X. Only this room prints.

Doors:

- `main`: the program
"""
