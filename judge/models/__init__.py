"""A folder with a model or a judge.

Doors:

- `bundle`: `open_model`: the folder, checked
- `load`: models of transformers, with their weights or without
- `prompting`: the template and the budget that a model's prompts are built with
- `judge_file`: judge.json
- `adapter`: LoRA adapters, and what an engine can do with them
- `tensor_files`: safetensors files, tensor by tensor
- `packed`: 4-bit layouts
- `trained_rows`: fingerprints of the rows that trained a judge
- `architecture`: what a config says of a model's parts
- `arithmetic`: its parameters, FLOPs and bytes
- `calibration`: a stored calibration, and how it acts
"""
