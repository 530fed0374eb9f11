"""`python -m judge`, and `accelerate launch -m judge`, are the command `judge`."""

from judge.cli.main import main

if __name__ == "__main__":
    main()
