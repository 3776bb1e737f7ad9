"""The `zoonnx` command: finds the verb's function, runs it, and turns a user's mistake into one sentence.

An exception that carries `exit_status` is meant for the user: its text goes to stderr, without a traceback.
"""

import contextlib
import difflib
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

# verb: (where its function is, the extra that brings what it needs, what it does)
VERBS = {
    "models": ("zoo.cli.inspect:models", "train", "list the networks by name"),
    "describe": ("zoo.cli.inspect:describe", "train", "show every layer of a network: sizes, costs, what a unit sees"),
    "compare": ("zoo.cli.inspect:compare", "train", "put networks, or ways to connect a layer, side by side"),
    "train": ("zoo.cli.train:train", "train", "train a network from scratch"),
    "tune": ("zoo.cli.train:tune", "train", "put a new head on a pretrained backbone, and train them"),
    "eval": ("zoo.cli.inspect:eval_", "train", "measure a trained network on a data set"),
    "export": ("export.cli.export:export", "export", "write a network as an ONNX model into a Triton model repository"),
    "check": ("export.cli.check:check", "serve", "verify a written model again, from its files alone"),
    "serve": ("serve.cli.verbs:serve", "serve", "serve a model repository over gRPC"),
    "infer": ("serve.cli.verbs:infer", "client", "ask a server about images"),
    "dump": ("serve.cli.verbs:dump", "client", "save what layers of a served model gave, as tensors and as an image"),
    "bench": ("serve.cli.verbs:bench", "client", "measure how fast a server answers"),
    "demo": ("export.cli.demo:demo", "all", "train, export, serve and ask, offline, on handwritten digits"),
}
OURS = ("zoo", "export", "serve", "protos")


class _TerminatedError(BaseException):
    """SIGTERM came: what is being done is given up as by Ctrl-C, so that nothing is left half-written."""


# what a signal raises: what is said of it, and the exit status, 128 and the signal's number as shells count
SIGNALLED: dict[type[BaseException], tuple[str, int]] = {
    KeyboardInterrupt: ("interrupted", 130),
    _TerminatedError: ("terminated", 143),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `zoonnx VERB ...`. Exit status: 0 done, 1 the work failed, 2 the user's mistake, 130 Ctrl-C, 143 SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        _show_verbs()
    elif arguments[0] == "--version":
        _show_version()
    else:
        _run(arguments[0], arguments[1:])


def _run(verb: str, arguments: list[str]) -> None:
    _require_folder(verb)
    try:
        with _ended_by_sigterm():
            _command(verb)(arguments, prog_name=f"zoonnx {verb}")
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left: nothing to say, nobody to say it to
        sys.exit(1)
    except (KeyboardInterrupt, _TerminatedError) as error:
        _give_up(verb, error)
    except Exception as error:
        _explain(verb, error)
        raise


def _require_folder(verb: str) -> None:
    """Refuse a working folder that was removed: libraries cannot even be loaded there."""
    try:
        Path.cwd()
    except FileNotFoundError:
        _fail(verb, "the folder in which this runs was removed: change into another one.", 2)


def _explain(verb: str, error: Exception) -> None:
    """End with a sentence, where the error is anybody's but ours."""
    if hasattr(error, "exit_status"):
        _fail(verb, str(error), int(error.exit_status))
    for each in _behind(error):
        if isinstance(each, tuple(SIGNALLED)):
            _give_up(verb, each)
    if isinstance(error, MemoryError):
        _fail(verb, f"this machine has not enough memory for that: {error or 'nothing is left'}.", 1)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        _fail(verb, f"{where}{error.strerror or error}.", 1)


def _behind(error: BaseException | None) -> list[BaseException]:
    """An exception and those it came of: a library that is being imported makes its own of a signal's."""
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _command(verb: str) -> Callable[..., Any]:
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(VERBS)}."
        _fail(verb, f"there is no such verb; {hint}", 2)
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(_function(verb))
    return app


def _function(verb: str) -> Callable[..., Any]:
    module_name, function_name = VERBS[verb][0].split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module_name), function_name)
    return _explain_missing_extra(verb, function)


def _explain_missing_extra(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Say which extra to install when `function` needs a package that is not there."""
    import functools

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except KeyboardInterrupt as error:  # typer would say nothing
            _give_up(verb, error)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if not package or package in OURS:
                raise
            _fail(verb, f"the package '{package}' is not installed; run: pip install 'zoonnx[{VERBS[verb][1]}]'", 2)

    return run


def _show_version() -> None:
    from protos.version import VERSION

    _say(f"zoonnx {VERSION}", sys.stdout)


def _show_verbs() -> None:
    lines = [f"  {verb:<8} {summary}" for verb, (_, _, summary) in VERBS.items()]
    head = "zoonnx: from a CNN in PyTorch to an answer over gRPC, with every layer open to view."
    usage = "Usage: zoonnx VERB ..."
    _say(
        "\n".join([head, "", usage, "", *lines, "", "zoonnx VERB --help explains a verb and gives an example."]),
        sys.stdout,
    )


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end the block by an exception, which cleans up; unless somebody else decided what it does."""

    def end(_number: int, _frame: Any) -> None:
        raise _TerminatedError

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _give_up(verb: str, signalled: BaseException) -> NoReturn:
    """End for a signal; a second one ends the process at once."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    _fail(verb, *SIGNALLED[type(signalled)])


def _fail(verb: str, message: str, status: int) -> NoReturn:
    """End with a sentence. Names in it come from anywhere: what would steer a terminal is written as an escape."""
    _say(
        "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in f"zoonnx {verb}: {message}"), sys.stderr
    )
    sys.exit(status)


def _say(text: str, stream: Any) -> None:
    if stream is not None:  # it was closed before this began
        stream.write(f"{text}\n")
        stream.flush()


if __name__ == "__main__":
    main()
