"""One command line from its words to its exit code: every failure that a user can meet is printed as an error, not raised."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import sys
import traceback

import click

from buildsys.cli import caches, commands, declaring, say, silence
from buildsys.cli.command_line import EXIT_CODE, command
from buildsys.errors import BuildError, Interrupted, UsageError, nearest, os_failure

_REGISTERED = (caches, commands, declaring)  # by being imported


def run(arguments: list[str], seen: dict[str, bytes] | None = None) -> int:
    """Run one command line and return its exit code; every failure that a user can meet is printed as an error, not raised.

    seen  signatures of files that were asked for a moment ago
    """
    gc.disable()  # a short process whose many small objects all live to its end
    try:
        command.main(_normal(arguments), prog_name="build", standalone_mode=False, obj=seen)
        sys.stdout.flush()
        return EXIT_CODE[0]
    except (BrokenPipeError, SystemExit):  # the latter is click's answer to it
        silence(sys.stdout)  # whoever read us has had enough
        return EXIT_CODE[0]
    except (KeyboardInterrupt, click.Abort):
        return _fail(Interrupted("interrupted"), arguments)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        return _fail(_usage(error), arguments)
    except BuildError as error:
        return _fail(error, arguments)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(os_failure(error, "the build could not go on"), arguments)
        facts = [(type(error).__name__, str(error))]
        return _fail(BuildError("an internal error", facts, "run again with --debug for the traceback"), arguments)


def _fail(error: BuildError, arguments: list[str]) -> int:
    if "--json" in arguments:
        with contextlib.suppress(OSError):  # where stdout is what failed, stderr says so
            print(json.dumps({"exit": error.exit_code, "error": str(error)}), flush=True)
    if "--debug" in arguments and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    say(error)
    return error.exit_code


def _usage(error: click.ClickException) -> UsageError:
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        close = nearest(error.option_name, ["--dry-run", "--keep-going", "--jobs", "--force", "--json", "--quiet", "--verbose", "--prompt"])
        return UsageError(
            f"there is no option {error.option_name}", hint=f"did you mean {close}?" if close else "'build --help' shows them"
        )
    return UsageError(message[:1].lower() + message[1:], hint="'build --help' shows the commands and their options")


def _normal(arguments: list[str]) -> list[str]:
    """`build -C DIR status` means `build status -C DIR`; what begins with no command makes targets."""
    first = 0
    while first < len(arguments) and arguments[first].startswith("-"):
        first += 2 if arguments[first] in ("-C", "-j", "--jobs") else 1
    if arguments[first : first + 1] and arguments[first] in command.commands:
        return [arguments[first], *arguments[:first], *arguments[first + 1 :]]
    return arguments if arguments in (["--help"], ["-h"], ["--version"]) else ["make", *arguments]
