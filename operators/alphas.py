"""The alphas that exist: the one place where a new one registers.

An alpha is a module with `Params`, `State`, `start()` and `step(params, state, bars)`, answering each bar
with one vote. Its settings stand in `[alphas.NAME]`, its weight in `[ensemble.weights]`.
"""

from types import ModuleType

from operators import ema_cross, macd, rsi

ALPHAS: dict[str, ModuleType] = {"rsi": rsi, "ema_cross": ema_cross, "macd": macd}
