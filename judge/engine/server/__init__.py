"""A running `vllm serve` that reads the prompts."""
