"""`python -m buildsys` is `build`."""

from buildsys.cli import main

if __name__ == "__main__":
    main()
