"""Made-up tables like a given one: lengths, turns, languages, and every kind of awkward row."""
