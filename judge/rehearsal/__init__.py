"""The parts of a rehearsal: which rows are read, and what follows from them for the whole table."""
