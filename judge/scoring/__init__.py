"""`judge score`.

Doors:

- `score`: `score_table`: a table file in, a predictions file out
- `scorer`: `Scorer`: a model, a template and settings
- `settings`: `ScoreSettings`, and what they come to for a model
- `reading`: which rows the swap policy picks, and what prompts cost
"""
