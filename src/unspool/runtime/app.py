"""The import of the application whose tasks a worker runs."""

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from types import ModuleType

from .. import failure, importing
from ..errors import AppError
from ..naming import name_of_file

__all__ = ["changed", "load_app", "own_files"]


def load_app(spec: str, *, interruptible: bool = True) -> ModuleType:
    """Import ``module``, ``module:attr`` or ``path/to/file.py``. The working directory is on the import path.

    :param interruptible: whether ``KeyboardInterrupt`` comes from a person and not from the application.
    :raises AppError: if the import fails. The message names the error and the last line in the user's own files.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    name, _, attribute = spec.partition(":")
    importing.app = spec
    try:
        if not name.endswith(".py") and (os.sep in name or name.startswith(".") or not name):
            raise ImportError(f"{name!r} is {_kind(name)}; {_VALID}")
        module = _load_file(name) if name.endswith(".py") else importlib.import_module(name)
        for part in filter(None, attribute.split(".")):
            getattr(module, part)
    except BaseException as error:
        # Whatever user code raises while it is imported: there is no application.
        if interruptible and isinstance(error, KeyboardInterrupt):
            raise
        raise AppError(
            f"app {spec!r} cannot be imported: {_where(error)}{_why(name, error)}", _frames(error)
        ) from error
    finally:
        importing.app = ""
    return module


def own_files(app: ModuleType) -> dict[str, float]:
    """Return the imported files below the working directory and beside the application, with their times of change."""
    top = sys.modules.get(app.__name__.partition(".")[0], app)
    places = (os.getcwd() + os.sep, os.path.dirname(os.path.abspath(getattr(top, "__file__", None) or "x")) + os.sep)
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if not path:
            continue
        path = os.path.abspath(path)
        if module is app or (path.startswith(places) and f"{os.sep}site-packages{os.sep}" not in path):
            found[path] = changed(path)
    return found


def _load_file(path: str) -> ModuleType:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}; {_VALID}")
    name = name_of_file(path)
    folder = os.path.dirname(path)
    for _ in range(name.count(".")):
        folder = os.path.dirname(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for the script that it runs
    if "." in name:  # a module of a package is imported under its full name, which other modules and senders use
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_VALID = "APP is a module, module:attr or path/to/file.py"


def _kind(path: str) -> str:
    """Return what a path is, for a path that is neither a module nor a Python file."""
    if os.path.isfile(f"{path}.py"):
        return f"not a module (did you mean {path}.py?)"
    return "a directory" if os.path.isdir(path) else "neither a module nor a file that ends in .py"


def _why(name: str, error: BaseException) -> str:
    text = f"{type(error).__name__}: {failure.text(error)}"
    if isinstance(error, SystemExit):
        return f"{text}: it calls sys.exit(), as argparse does; call it under if __name__ == '__main__':"
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return f"{text} in {os.getcwd()} or the installed packages; {_VALID}"
    return text


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    frames = [frame for frame in frames if not _is_library(frame.filename)] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _frames(error: BaseException) -> str:
    """Return the traceback from the first line of the application on; empty if none of its lines was run."""
    frames = error.__traceback__
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return failure.describe(error, frames).partition("\n")[2] if frames is not None else ""


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen") or filename == importlib.__file__


def _is_library(filename: str) -> bool:
    """Return whether a file belongs to Python, an installed package or unspool, and not to the user."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return filename.startswith((_PACKAGE, *(folder + os.sep for folder in folders))) or not os.path.isfile(filename)


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def changed(path: str) -> float:
    """Return the mtime of a file; 0 if it does not exist."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
