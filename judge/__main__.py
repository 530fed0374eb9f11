"""`python -m judge`, and `accelerate launch -m judge`, are the command `judge`."""

import os
import sys


def leave_working_folder() -> None:
    """Take the working folder off the path, which Python puts first where it runs a module with `-m`.

    A user's `quantize.py` or `json.py` there is not what judge imports. A checkout that is not installed is found in
    no other way: then the folder stays, and engine processes are told of it.
    """
    first = os.path.realpath(sys.path[0])
    if sys.flags.safe_path or first != os.path.realpath(os.curdir):
        return
    home = os.path.realpath(os.path.join(__file__, os.pardir, os.pardir))  # noqa: PTH118 - pathlib is not loaded yet
    if first != home or home in map(os.path.realpath, sys.path[1:]):
        del sys.path[0]
        return
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([home, known]) if known else home


if __name__ == "__main__":
    leave_working_folder()

    from judge.cli.main import main

    main()
