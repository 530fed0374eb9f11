"""`judge data`: what is done to labelled tables before training."""
