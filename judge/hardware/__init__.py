"""Facts about cards, processors and memory.

Doors:

- `machine`: what this machine has, dtype and parallelism
- `cards`: data sheets
- `kernels`: what vLLM runs on which card
- `memory`: what an engine takes besides weights and cache
"""
