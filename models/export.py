"""A fitted network -> a bundle, refused unless onnxruntime says what torch says."""

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models import inputs
from models.bundle import GRAPH, SAMPLE
from models.dataset import Dataset
from models.engine import INPUTS, OUTPUT, session
from models.tft import Model, StackedSelection, Widths, batch, network
from models.training import Network
from schemas.frames import Floats, Longs

BATCHES = (1, 8, 16, 64)
TOLERANCE = 1e-4  # log return
_OPSET = 20


class ExportError(RuntimeError):
    """The graph is not the network."""


def rebuilt(ds: Dataset, params: Network, weights: bytes) -> Model:
    """The network whose weights a fold has kept."""
    names = inputs.observed(ds.data.features)
    none: Widths = np.zeros(len(names), np.float32)
    tft = network(names, len(ds.symbols) + 1, ds.data.lookback, params)
    model = Model(tft, ds.data.features, ds.data.horizons, none, none, named=params.unknown < 1.0)
    model.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    model.eval()
    return model


def widen(model: Model, offsets: Floats) -> None:
    """Put the conformal correction into the graph: volatility units, by horizon."""
    model.widening.copy_(torch.as_tensor(offsets, dtype=torch.float32).view(1, -1, 1))


def files(model: Model, ds: Dataset, which: Longs) -> dict[str, bytes]:
    """Graph and sample of a bundle; `which` are at least two samples to check by. Raises ExportError."""
    blob = graph(model, ds, which)
    largest = max(BATCHES)
    sample = tuple(part.numpy() for part in batch(ds, np.resize(which, largest))[:3])
    worst = difference(model, blob, sample, BATCHES)
    if not worst <= TOLERANCE:
        raise ExportError(f"the graph differs from the network by {worst:.2g}, allowed {TOLERANCE:g}")
    few = tuple(part[:16] for part in sample)
    answer = session(blob).run([OUTPUT], dict(zip(INPUTS, few, strict=True)))[0]
    packed = io.BytesIO()
    np.savez(packed, **dict(zip(INPUTS, few, strict=True)), **{OUTPUT: answer})
    return {GRAPH: blob, SAMPLE: packed.getvalue()}


def confirm(model: Model, blob: bytes, ds: Dataset, which: Longs, judged: Floats) -> None:
    """Raise ExportError unless the graph forecasts what its fold was judged by: quantiles of the log return."""
    features, future, symbol = batch(ds, which)[:3]
    feeds = (part.numpy() for part in (features, future, model.known(symbol)))
    found = session(blob).run([OUTPUT], dict(zip(INPUTS, feeds, strict=True)))[0]
    worst = float(np.abs(found - judged).max())
    if not worst <= TOLERANCE:
        raise ExportError(f"the graph differs by {worst:.2g} from what the fold was judged by, allowed {TOLERANCE:g}")


def graph(model: Model, ds: Dataset, which: Longs) -> bytes:
    """ONNX with a dynamic batch; the variable selections in their stacked form, which runs twice as fast."""
    model.eval()
    model.select = (StackedSelection(model.tft.encoder_variable_selection).eval(),
                    StackedSelection(model.tft.decoder_variable_selection).eval())  # fmt: skip
    try:
        rows = torch.export.Dim("batch", min=1, max=4096)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which is not needed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            made = torch.onnx.export(
                model, tuple(batch(ds, np.resize(which, 4))[:3]), dynamo=True, opset_version=_OPSET,
                dynamic_shapes={key: {0: rows} for key in INPUTS}, input_names=list(INPUTS), output_names=[OUTPUT],
                external_data=False, optimize=True, verbose=False,
            )  # fmt: skip
    finally:
        model.select = None
    proto = made.model_proto
    for node in proto.graph.node:  # stack traces are most of the file
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    blob: bytes = proto.SerializeToString(deterministic=True)
    return blob


def difference(model: Model, blob: bytes, sample: Sequence[Any], batches: Sequence[int]) -> float:
    """The largest absolute difference between graph and network over batches of these sizes."""
    loaded = session(blob)
    worst = 0.0
    for rows in batches:
        own = [part[:rows] for part in sample]
        with torch.no_grad():
            expected = model(*(torch.from_numpy(part) for part in own)).numpy()
        found = loaded.run([OUTPUT], dict(zip(INPUTS, own, strict=True)))[0]
        gap = np.abs(found - expected).max()
        worst = max(worst, float(gap) if np.isfinite(gap) else float("inf"))
    return worst
