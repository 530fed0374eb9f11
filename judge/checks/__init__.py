"""What `judge doctor` looks at: the machine, the installed packages, a model folder, and work without a network."""
