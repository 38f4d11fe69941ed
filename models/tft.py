"""The temporal fusion transformer: pytorch-forecasting's own modules and weights, run on whole windows.

The library's forward packs windows by their lengths; where all are full that changes nothing, and a
forward without it can be exported. A test holds the two equal, bit for bit. One decoder step per horizon.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from models import inputs
from models.dataset import Dataset
from models.training import QUANTILES, Network
from operators.forecast import LEAST_VOLATILITY
from schemas.frames import Longs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own, on import
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import QuantileLoss

KNOWN = ("minute_sin", "minute_cos", "day_sin", "day_cos", "nights", "log_horizon")
EMBEDDING = 8
SINGLE = 8  # width of one input; `StackedSelection` needs it to differ from `hidden`
BOUND = 8.0  # deviations; what is farther out says no more

Widths = npt.NDArray[np.float32]


class Ordered(nn.Module):
    """q10 <= q50 <= q90 by construction."""

    def __init__(self, width: int):
        super().__init__()
        self.lin = nn.Linear(width, len(QUANTILES))

    def forward(self, hidden: Any) -> Any:
        """Middle, and two distances that cannot be negative."""
        low, middle, high = self.lin(hidden).unbind(-1)
        return torch.stack([middle - F.softplus(low), middle, middle + F.softplus(high)], -1)


class PassThrough(nn.Module):
    """In place of a data set's transformer, without which the library's forward fails."""

    def forward(self, found: Any) -> Any:
        """The prediction as it is."""
        return found["prediction"]


class FixedWindowTFT(TemporalFusionTransformer):
    """The library's network, on windows that are all full."""

    def forward(self, x: Any) -> Any:
        """The library's path."""
        return self.to_network_output(
            prediction=self.forward_fixed(x["encoder_cont"], x["decoder_cont"], x["static_cat"])
        )

    def forward_fixed(self, enc: Any, dec: Any, cat: Any, select: Any = None) -> Any:
        """[batch, horizons, quantiles] from [batch, bars, reals], [batch, horizons, reals] and [batch, 1].

        `select` are the two variable selections in a faster form.
        """
        hp, bars, steps = self.hparams, enc.shape[1], dec.shape[1]
        static = {n: self.input_embeddings.embeddings[n](cat[:, i]) for i, n in enumerate(hp.x_categoricals)}
        se, _ = self.static_variable_selection(static)
        ctx = self.static_context_variable_selection(se).unsqueeze(1)
        if select is None:
            vec = dict(zip(hp.x_reals, torch.cat([enc, dec], 1).split(1, -1), strict=True))
            past = {n: vec[n][:, :bars] for n in self.encoder_variables}
            ahead = {n: vec[n][:, bars:] for n in self.decoder_variables}
            ee, _ = self.encoder_variable_selection(past, ctx.expand(-1, bars, -1))
            de, _ = self.decoder_variable_selection(ahead, ctx.expand(-1, steps, -1))
        else:
            known = len(self.decoder_variables)
            ee = select[0](enc, ctx.expand(-1, bars, -1))
            de = select[1](dec[..., :known], ctx.expand(-1, steps, -1))

        def repeated(t: Any) -> Any:
            return t.unsqueeze(0).expand(hp.lstm_layers, -1, -1).contiguous()

        start = (
            repeated(self.static_context_initial_hidden_lstm(se)),
            repeated(self.static_context_initial_cell_lstm(se)),
        )
        eo, last = nn.LSTM.forward(self.lstm_encoder, ee, start)  # nn.LSTM's own: skips the packing
        do, _ = nn.LSTM.forward(self.lstm_decoder, de, last)
        lo = torch.cat([self.post_lstm_add_norm_encoder(self.post_lstm_gate_encoder(eo), ee),
                        self.post_lstm_add_norm_decoder(self.post_lstm_gate_decoder(do), de)], 1)  # fmt: skip
        ai = self.static_enrichment(lo, self.static_context_enrichment(se).unsqueeze(1).expand(-1, bars + steps, -1))
        seen = torch.zeros(steps, bars, dtype=torch.bool, device=enc.device)
        hidden = torch.ones(steps, steps, dtype=torch.bool, device=enc.device).triu(0)
        ao, _ = self.multihead_attn(q=ai[:, bars:], k=ai, v=ai, mask=torch.cat([seen, hidden], 1).unsqueeze(0))
        ao = self.post_attn_gate_norm(ao, ai[:, bars:])
        return self.output_layer(self.pre_output_gate_norm(self.pos_wise_ff(ao), lo[:, bars:]))


class StackedSelection(nn.Module):
    """A variable selection whose inputs are all reals, as a dozen batched operations; weights are copied."""

    def __init__(self, selection: Any):
        super().__init__()
        names = list(selection.input_sizes)
        grns, scalers = [selection.single_variable_grns[n] for n in names], [selection.prescalers[n] for n in names]
        self.width, self.single, self.flat = (
            selection.hidden_size,
            selection.input_sizes[names[0]],
            selection.flattened_grn,
        )

        def keep(key: str, values: Sequence[Any]) -> None:
            self.register_buffer(key, torch.stack(list(values)).detach().clone())

        keep("scale", [m.weight[:, 0] for m in scalers])
        keep("shift", [m.bias for m in scalers])
        keep("w1", [m.fc1.weight.T for m in grns])
        keep("b1", [m.fc1.bias[None] for m in grns])
        keep("w2", [m.fc2.weight.T for m in grns])
        keep("b2", [m.fc2.bias[None] for m in grns])
        keep("wg", [m.gate_norm.glu.fc.weight.T for m in grns])
        keep("bg", [m.gate_norm.glu.fc.bias[None] for m in grns])
        keep("lw", [m.gate_norm.add_norm.norm.weight[None] for m in grns])
        keep("lb", [m.gate_norm.add_norm.norm.bias[None] for m in grns])
        keep("rm", [torch.sigmoid(m.resample_norm.mask)[None] * 2 for m in grns])
        keep("rw", [m.resample_norm.norm.weight[None] for m in grns])
        keep("rb", [m.resample_norm.norm.bias[None] for m in grns])
        wider = F.interpolate(torch.eye(self.single)[:, None], self.width, mode="linear", align_corners=True)[:, 0]
        self.register_buffer("wider", wider)

    def forward(self, x: Any, ctx: Any) -> Any:
        """[batch, time, variables] -> [batch, time, width]."""
        rows, time, count = x.shape
        e = x[..., None] * self.scale + self.shift
        v = e.reshape(rows * time, count, self.single).transpose(0, 1)
        h = torch.matmul(F.elu(torch.matmul(v, self.w1) + self.b1), self.w2) + self.b2
        h = F.glu(torch.matmul(h, self.wg) + self.bg, -1)
        r = F.layer_norm(torch.matmul(v, self.wider) * self.rm, (self.width,)) * self.rw + self.rb
        o = F.layer_norm(h + r, (self.width,)) * self.lw + self.lb
        weights = torch.softmax(self.flat(e.reshape(rows, time, count * self.single), ctx), -1)
        weights = weights.reshape(rows * time, count).transpose(0, 1)
        return (o * weights[..., None]).sum(0).reshape(rows, time, self.width)


def network(observed: Sequence[str], symbols: int, lookback: int, params: Network, *, cls: Any = FixedWindowTFT,
            ordered: bool = True) -> Any:  # fmt: skip
    """A fresh network; `symbols` counts the unknown one too."""
    reals = [*KNOWN, *observed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cls(
            hidden_size=params.hidden, attention_head_size=params.heads, hidden_continuous_size=SINGLE,
            dropout=params.dropout, output_size=len(QUANTILES), loss=QuantileLoss(quantiles=list(QUANTILES)),
            max_encoder_length=lookback, log_interval=-1, logging_metrics=nn.ModuleList([]),
            output_transformer=PassThrough(), x_reals=reals, time_varying_reals_encoder=reals,
            time_varying_reals_decoder=list(KNOWN), static_categoricals=["symbol"], x_categoricals=["symbol"],
            embedding_sizes={"symbol": (symbols, EMBEDDING)},
        )  # fmt: skip
    if ordered:
        made.output_layer = Ordered(params.hidden)
    return made


class Model(nn.Module):
    """Raw windows in, quantiles out: every scaling is inside, so it travels with the weights."""

    def __init__(self, tft: Any, names: Sequence[str], horizons: Sequence[int], mean: Widths, std: Widths, *,
                 named: bool = True):  # fmt: skip
        super().__init__()
        self.tft, self.names = tft, tuple(names)
        self._named = named  # whether symbols have embeddings that learned
        self.select: Any = None
        self._minute, self._day = self.names.index("minute_of_day"), self.names.index("day_of_week")
        self._return = self.names.index("returns_1")
        # Copies: weights that are loaded are written into the buffers, wherever else their memory is used.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        h = torch.tensor(horizons, dtype=torch.float32)
        self.register_buffer("root", h.sqrt().view(1, -1, 1))
        self.register_buffer("log_horizon", torch.log(h / h.mean()).view(1, -1, 1))
        self.register_buffer("widening", torch.zeros(1, len(horizons), 1))  # conformal, in volatility units
        self.register_buffer("side", torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, -1))

    def known(self, symbol: Any) -> Any:
        """The symbols' numbers as they are served: 0 for all where none has an embedding that learned."""
        return symbol if self._named else torch.zeros_like(symbol)

    def volatility(self, features: Any) -> Any:
        """Root mean square of the window's one-bar returns, [batch, 1]."""
        moves = features[..., self._return]
        return (moves * moves).mean(1, keepdim=True).sqrt().clamp_min(LEAST_VOLATILITY)

    def scaled(self, features: Any, future: Any, symbol: Any, volatility: Any) -> Any:
        """Quantiles in volatility units × √h, before the conformal widening."""
        z = torch.stack(inputs.scale_free(self.names, features, volatility, torch.log1p), -1)
        z = ((z - self.mean) / self.std).clamp(-BOUND, BOUND)
        none = torch.zeros_like(features[..., :1])
        past = torch.cat([clock(features[..., self._minute], features[..., self._day]), none, none], -1)
        steps = self.log_horizon.expand(features.shape[0], -1, -1)
        ahead = torch.cat([clock(future[..., 0], future[..., 1]), future[..., 2:3], steps], -1)
        dec = torch.cat([ahead, torch.zeros_like(z[:, :1]).expand(-1, ahead.shape[1], -1)], -1)
        return self.tft.forward_fixed(torch.cat([past, z], -1), dec, symbol.unsqueeze(-1), self.select)

    def forward(self, features: Any, future: Any, symbol: Any) -> Any:
        """Quantiles of the log return, [batch, horizons, quantiles]."""
        volatility = self.volatility(features)
        q = self.scaled(features, future, symbol, volatility)
        middle = q[..., 1:2]
        q = torch.where(self.side < 0, torch.minimum(q - self.widening, middle),
                        torch.where(self.side > 0, torch.maximum(q + self.widening, middle), middle))  # fmt: skip
        return q * volatility.unsqueeze(-1) * self.root


def clock(minute: Any, day: Any) -> Any:
    """Time of day and weekday on circles, [..., 4]."""
    m, d = minute * (2.0 * math.pi / 1440.0), day * (2.0 * math.pi / 5.0)
    return torch.stack([torch.sin(m), torch.cos(m), torch.sin(d), torch.cos(d)], -1)


def pinball(y: Any, q: Any) -> Any:
    """Mean over samples, horizons and quantiles of max(q e, (q - 1) e)."""
    error = y.unsqueeze(-1) - q
    at = torch.tensor(QUANTILES, device=q.device)
    return torch.maximum(at * error, (at - 1.0) * error).mean()


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model and how it came to be."""

    model: Model
    train_loss: float  # pinball in volatility units, of the best epoch
    validation_loss: float
    epochs: int  # that were run
    best: int  # the epoch whose weights were kept, from 1


Progress = Callable[[int, int, float], None]  # epoch, epochs, validation loss


def fit(ds: Dataset, train: Longs, validation: Longs, params: Network, progress: Progress | None = None) -> Fitted:
    """Fit on samples, stop early by others, keep the best weights. The same arguments give the same bits.

    AdamW on one cycle of the learning rate, pinball loss in volatility units.
    """
    torch.manual_seed(params.seed)
    torch.use_deterministic_algorithms(True)
    draw = np.random.default_rng(params.seed)
    mean, std = moments(ds, train)
    names = inputs.observed(ds.data.features)
    tft = network(names, len(ds.symbols) + 1, ds.data.lookback, params)
    model = Model(tft, ds.data.features, ds.data.horizons, mean, std, named=params.unknown < 1.0)
    steps = -(-train.size // params.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, params.learning_rate, total_steps=steps * params.epochs + 1)
    best = (math.inf, math.inf, 0, copy.deepcopy(model.state_dict()))
    epoch = 0
    for epoch in range(1, params.epochs + 1):
        model.train()
        losses = []
        order = draw.permutation(train)
        for begin in range(0, order.size, params.batch):
            which = order[begin : begin + params.batch]
            features, future, symbol, volatility, label = batch(ds, which)
            symbol = torch.where(torch.from_numpy(draw.random(which.size) < params.unknown), 0, symbol)
            loss = pinball(label, model.scaled(features, future, symbol, volatility))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), params.clip)
            optimiser.step()
            cycle.step()
            losses.append(float(loss.detach()) * which.size)
        found = float(
            pinball(torch.from_numpy(ds.label[validation]), torch.from_numpy(quantiles(model, ds, validation)))
        )
        if found < best[0]:
            best = (found, sum(losses) / train.size, epoch, copy.deepcopy(model.state_dict()))
        if progress is not None:
            progress(epoch, params.epochs, found)
        if epoch - best[2] >= params.patience:
            break
    model.load_state_dict(best[3])
    model.eval()
    return Fitted(model, best[1], best[0], epoch, best[2])


def batch(ds: Dataset, which: Longs) -> tuple[Any, Any, Any, Any, Any]:
    """Windows, known future, symbol, volatility and label of samples."""
    return (torch.from_numpy(ds.windows(which)), torch.from_numpy(ds.future(which)),
            torch.from_numpy(ds.symbol[which].astype(np.int64)), torch.from_numpy(ds.volatility[which, None]),
            torch.from_numpy(ds.label[which]))  # fmt: skip


def moments(ds: Dataset, which: Longs, most: int = 2_000) -> tuple[Widths, Widths]:
    """Mean and deviation of every observed input over training windows; a deviation of nothing is 1."""
    some = which[:: -(-which.size // most)]
    columns = inputs.scale_free(ds.data.features, ds.windows(some), ds.volatility[some, None], np.log1p)
    mean = np.array([column.mean(dtype=np.float64) for column in columns], np.float32)
    std = np.array([column.std(dtype=np.float64) for column in columns], np.float32)
    return mean, np.where(std < 1e-8, np.float32(1.0), std)


def quantiles(model: Model, ds: Dataset, which: Longs, size: int = 512) -> Widths:
    """Quantiles in volatility units, [samples, horizons, quantiles], without the conformal widening."""
    model.eval()
    parts = []
    with torch.no_grad():
        for begin in range(0, which.size, size):
            features, future, symbol, volatility, _ = batch(ds, which[begin : begin + size])
            parts.append(model.scaled(features, future, model.known(symbol), volatility).numpy())
    return np.concatenate(parts) if parts else np.zeros((0, len(ds.data.horizons), len(QUANTILES)), np.float32)
