"""`judge doctor`: what is wrong with the machine, the packages, the model or offline use.

Doors:

- `doctor`: the examination
- `finding`: one thing that was found
"""
