"""From token ids to three log-probabilities.

Doors:

- `protocol`: `EngineConfig`, what pools and workers share
- `choose`: `EngineSettings` and `make_pool`, which starts all engines
- `pool`: `Pool`, and `WorkerPool`: engine processes on this machine
- `weights`: how weights are read
- `expand`: a 32-bit copy of 4-bit weights
- `transformers`: the slow reference engine
- `ray.pool`: engines on a Ray cluster
- `server.pool`: a running `vllm serve`
"""
