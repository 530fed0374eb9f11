"""Comparisons and tables of them: read, checked, grouped, split and written.

Doors:

- `table`: `Table`, read and checked in a stream
- `table_files`: the file formats
- `table_writing`: copies of rows into another file
- `parquet_folder`: a table as a folder of Parquet files
- `comparison`: `Comparison`, one row: its turns, flags and label
- `language`: the language and the script of a row
- `split`: prompt groups, row keys, folds
- `overlap`: near-duplicate prompts
"""
