"""Undo the compiler: a kernel, and every kernel it calls, as the Python it was written in."""

import types
from typing import Any

from numba.core.dispatcher import Dispatcher


def plain(kernel: Any, done: dict[int, Any] | None = None) -> Any:
    """The undecorated function, with its callees undecorated too."""
    done = {} if done is None else done
    if id(kernel) in done:
        return done[id(kernel)]
    source = kernel.py_func
    scope = dict(source.__globals__)
    copy = types.FunctionType(source.__code__, scope, source.__name__, source.__defaults__, source.__closure__)
    done[id(kernel)] = copy
    for name in source.__code__.co_names:
        if isinstance(scope.get(name), Dispatcher):
            scope[name] = plain(scope[name], done)
    return copy


def kernels(module: types.ModuleType) -> list[str]:
    """Names of the kernels that a module defines or uses."""
    return [name for name, value in vars(module).items() if isinstance(value, Dispatcher)]
