"""From token ids to three log-probabilities.

Doors:

- `protocol`: `EngineConfig`, what pools and workers share
- `choose`: `EngineSettings` and `make_pool`, which starts all engines
- `pool`: `Pool`, and `WorkerPool`: engine processes on this machine
- `weights`: how weights are read
- `expand`: a 32-bit copy of 4-bit weights
- `transformers`: the slow reference engine

`ray/` holds engines on a Ray cluster, `server/` a running `vllm serve`. Both are pools; only `choose` starts them.
"""
