"""The demo: a real small chat model and a few made-up comparisons."""
