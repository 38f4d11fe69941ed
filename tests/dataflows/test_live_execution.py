"""The flows, the service and an exchange together: what the account has booked is what the exchange has filled."""

import subprocess

import pyarrow.parquet as pq
import pytest

from broker.book import Book
from dataflows.demo_exchange import DemoExchange
from dataflows.execution_reports import written
from dataflows.ingest import grid
from dataflows.live_demo import EXECUTE, THROUGH, approved
from infra.settings import load
from infra.topics import create_topics
from schemas.units import to_ticks
from tests.broker.rooms import until
from tests.dataflows.livekit import ROOT, Site


@pytest.mark.slow
def test_a_day_through_the_exchange(kafka, tmp_path):
    create_topics(kafka)
    day = {"INGEST__SOURCE": "synthetic:symbols=12,days=1,seed=11", "INGEST__SPEED": "600", **THROUGH}
    with DemoExchange(kafka, grid(load(None, (), {}))) as venue:
        site = Site(tmp_path, kafka, **day, **venue.environ(), **approved(tmp_path, "backtest"))
        (tmp_path / "var").mkdir()
        with (tmp_path / "execute.log").open("ab") as log:
            service = subprocess.Popen(EXECUTE, cwd=ROOT, env=site.env, stdout=log, stderr=log)
        try:
            site.start("live", "dataflows.live")
            site.start("ingest", "dataflows.ingest")
            (folder,) = site.wait(1)
            ledger = venue.server.exchange

            def agrees():
                book = Book.of(written(kafka, "backtest"))
                return not ledger.held and book.cash == ledger.cash - ledger.initial_cash

            assert until(agrees, 60.0), site.tails()
            fills = pq.read_table(folder / "fills.parquet").to_pylist()
            assert len(fills) > 3
            assert sum(one["qty"] for one in fills) == sum(one.qty for one in ledger.fills)
            spent = sum(to_ticks(one["price"]) * one["qty"] * (1 if one["side"] == "buy" else -1) for one in fills)
            assert spent == ledger.initial_cash - ledger.cash
        finally:
            service.terminate()
            assert service.wait(40.0) == 0
            site.stop_all()
