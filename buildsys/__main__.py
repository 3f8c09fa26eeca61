"""`python -m buildsys` is `build`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `-m` puts the current folder there: a module in a project is not taken for a library's

    from buildsys.cli import main

    main()
