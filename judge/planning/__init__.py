"""Plans: what a run needs on given hardware, and how long it takes, before it is started."""
