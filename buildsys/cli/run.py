"""One command line from its words to its exit code: every failure that a user can meet is printed as an error, not raised."""

from __future__ import annotations

import contextlib
import errno
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from buildsys import failures
from buildsys.cli import caches, commands, declaring, say, silence
from buildsys.cli.command_line import INVOCATION, command
from buildsys.errors import BuildError, Interrupted, UsageError, nearest, os_failure
from buildsys.store import fresh
from buildsys.terminal import Printable, json_line

if TYPE_CHECKING:
    from typing import TextIO

_REGISTERED = (caches, commands, declaring)  # by being imported


def run(arguments: list[str], seen: dict[str, bytes] | None = None) -> int:
    """Run one command line and return its exit code; every failure that a user can meet is printed as an error, not raised.

    seen  signatures of files that were asked for a moment ago
    """
    gc.disable()  # a short process whose many small objects all live to its end
    with contextlib.redirect_stderr(cast("TextIO", Printable(sys.stderr))):
        return _run(arguments, seen)


def _run(arguments: list[str], seen: dict[str, bytes] | None) -> int:
    try:
        command.main(_normal(arguments), prog_name="build", standalone_mode=False, obj=seen)
        sys.stdout.flush()
        return INVOCATION.exit_code
    except (BrokenPipeError, SystemExit):  # the latter is click's answer to it
        silence(sys.stdout)  # whoever read us has had enough
        return INVOCATION.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail(Interrupted("interrupted"), arguments)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        return _fail(_usage(error), arguments)
    except BuildError as error:
        return _fail(error, arguments)
    except BaseException as error:  # a panic of a library in Rust is not an Exception
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            failure = os_failure(error, "the build could not go on")
            failure.__cause__ = error
            return _fail(failure, arguments)
        return _fail(_internal(error), arguments)


def _internal(error: BaseException) -> BuildError:
    """An error of ours outside of any step, with its traceback in a log of the project's cache where there is one."""
    failure = failures.unexpected(error)
    root = None
    with contextlib.suppress(OSError, ValueError):
        root = fresh.project_root(INVOCATION.folder)
    log = failures.logged(error, Path(root, "cache", "logs")) if root is not None and not INVOCATION.debug else None
    facts = [*failure.facts, *([("log", str(log))] if log else [])]
    failure = BuildError(failure.headline, facts, "" if INVOCATION.debug else failure.hint)
    failure.__cause__ = error
    return failure


def _fail(error: BuildError, arguments: list[str]) -> int:
    if "--json" in arguments:
        with contextlib.suppress(OSError):  # where stdout is what failed, stderr says so
            print(json_line({"exit": error.exit_code, "error": str(error)}, sys.stdout.encoding), flush=True)
    if INVOCATION.debug and error.__cause__ is not None:
        say(*failures.chain(error))
    say(*error.lines())
    return error.exit_code


def _usage(error: click.ClickException) -> UsageError:
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and isinstance(error.ctx.command, click.Group):
        words, names = error.ctx.command_path, ", ".join(error.ctx.command.commands)
        return UsageError(f"'{words}' needs a command of its own", hint=f"they are {names}; '{words} --help' says more")
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        known = dict.fromkeys(spelling for option in _options() for spelling in option.opts if spelling.startswith("--"))
        close = nearest(error.option_name, [name for name in known if name != error.option_name])
        return UsageError(
            f"there is no option {error.option_name}", hint=f"did you mean {close}?" if close else "'build --help' shows them"
        )
    return UsageError(message[:1].lower() + message[1:], hint="'build --help' shows the commands and their options")


def _normal(arguments: list[str]) -> list[str]:
    """`build -C DIR status` means `build status -C DIR`; what begins with no command makes targets."""
    first = 0
    while first < len(arguments) and arguments[first].startswith("-") and arguments[first] != "--":
        first += 2 if arguments[first] in _taking_values() else 1
    if first < len(arguments) and arguments[first] in command.commands:
        named = command.commands[arguments[first]]
        end = first + 1
        if isinstance(named, click.Group) and arguments[end : end + 1] and arguments[end] in named.commands:
            end += 1
        return [*arguments[first:end], *arguments[:first], *arguments[end:]]
    return arguments if arguments in (["--help"], ["-h"], ["--version"]) else ["make", *arguments]


def _commands() -> list[click.Command]:
    every = command.commands.values()
    return [*every, *(inner for one in every if isinstance(one, click.Group) for inner in one.commands.values())]


def _options() -> list[click.Option]:
    return [option for one in _commands() for option in one.params if isinstance(option, click.Option)]


def _taking_values() -> set[str]:
    """The spellings of options after which a word is their value."""
    return {spelling for option in _options() if not option.is_flag for spelling in option.opts}
