"""A run in progress, which can be interrupted and goes on where it stopped.

Doors:

- `folder`: `RunFolder`: manifest, lock and finished shards
- `prepared`: a table's prompts on disk
- `shards`: prompts that are read together
- `reading`: the one loop that reads shards through a pool
- `progress`: `Progress`, how a stage tells how far it is
- `terminal`: progress and figures on the terminal
"""
