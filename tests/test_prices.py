"""The right price: fal's own of today beside a file's, the higher where they differ, and then what was really charged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import httpx
import jsonschema
import lab
import pytest
from lab import PRICE_USD, Lab
from mlflow.tracking import MlflowClient

from kling_sweeps import ledger, providers
from kling_sweeps.errors import BudgetError
from kling_sweeps.experiment.price import Price, Quote, Tier, told_price
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.store.state_machine import Cost, fold

FILE = Price(0.28, "second", "2026-11-22")
TIERED = replace(FILE, tiers=(Tier(0.5, {"audio": [True]}),))


@pytest.mark.parametrize(
    ("price", "told", "arguments", "seconds", "expected"),
    [
        (FILE, None, {}, 5, Quote(1.4)),
        (None, None, {}, 5, Quote(None)),
        (None, Price(0.3, "second"), {}, 5, Quote(1.5, is_fals=True)),
        (FILE, Price(0.28, "second"), {}, 5, Quote(1.4, is_fals=True)),
        (FILE, Price(1.4, "5 seconds"), {}, 10, Quote(2.8, is_fals=True)),
        (FILE, Price(1.4, "video"), {}, 5, Quote(1.4, is_fals=True)),
        (FILE, Price(0.42, "second"), {}, 5, Quote(2.1, is_fals=True, is_disputed=True)),
        (FILE, Price(0.14, "second"), {}, 5, Quote(1.4, is_disputed=True)),
        (TIERED, Price(0.28, "second"), {"audio": True}, 5, Quote(2.5, is_fals=True)),
        (TIERED, Price(0.56, "second"), {"audio": True}, 5, Quote(5.0, is_fals=True, is_disputed=True)),
        (FILE, Price(0.28, "second"), {}, None, Quote(None)),
        (Price(0.0, "video"), Price(0.2, "video"), {}, 5, Quote(0.2, is_fals=True)),
    ],
)
def test_the_higher_price_counts(price, told, arguments, seconds, expected):
    """Takes fal's word where it agrees or is alone, the higher where they differ, tiers in proportion."""
    filed = price.of(arguments, seconds) if price else None
    request = GenerationRequest("a/b", arguments, 0, filed)
    one = Cell(request, "m", "p", {}, "p", price=price, paid_s=seconds)
    assert one.quoted(told)[1] == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((0.28, "seconds", "USD"), Price(0.28, "seconds")),
        ((1.4, "5 seconds", "USD"), Price(1.4, "5 seconds")),
        ((1.4, "1 Video", "USD"), Price(1.4, "video")),
        ((1, "videos", "USD"), Price(1.0, "video")),
        ((0.1, "megapixels", "USD"), None),
        ((0.1, "compute seconds", "USD"), None),
        ((0.1, "second", "EUR"), None),
        ((-1, "second", "USD"), None),
        ((float("nan"), "second", "USD"), None),
        (("0.1", None, "USD"), None),
        ((True, "second", "USD"), None),
    ],
)
def test_a_unit_that_is_not_known_is_no_price(told, expected):
    """Reads the units that a file can have, and no others."""
    assert told_price(*told) == expected


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture
def faults(laboratory, monkeypatch):
    """Give what sets faults; nobody has asked for a price yet, and there are none afterwards."""
    monkeypatch.setattr(providers, "_told", {})
    yield laboratory.emulator.set_faults
    laboratory.emulator.set_faults()


def cell(prompt: str) -> Cell:
    return replace(lab.cell(prompt), price=FILE, paid_s=5.0)


@pytest.mark.slow
def test_a_price_that_fal_has_raised_counts(laboratory, faults):
    """Plans, reserves and journals what fal says today, says that the file is out of date, and refuses what is too dear."""
    faults({"at": "pricing", "fault": "raised", "factor": 1.5})
    one = cell("a dearer fox")
    outcome = laboratory.run("raised", one, max_usd=2)
    assert isinstance(outcome.error, BudgetError)
    assert "this costs 2.10 USD" in str(outcome.error)
    assert "fal says 0.42 USD a second today, and its file 0.28 USD a second as of 2026-11-22" in outcome.said
    assert laboratory.bought(one) == []
    assert laboratory.run("raised", one).exit_code == 0
    (attempt,) = fold(laboratory.entry(one).journal.events()).attempts
    assert attempt.price_usd == 2.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (None, "prices as fal says today; on fal"),
        ("other_unit", "prices as of 2026-11-22; on fal"),
        ("error_500", "prices as of 2026-11-22; on fal"),
        ("unauthorized_401", "prices as of 2026-11-22; on fal"),
    ],
)
def test_the_plan_says_whose_prices_it_has(laboratory, faults, fault, said):
    """Says that fal has confirmed a price, or of which date the file's is."""
    faults(*[{"at": "pricing", "fault": fault, "times": 1}] * bool(fault))
    outcome = laboratory.run("whose", cell(f"whose price, {fault}"))
    assert said in outcome.said
    assert "1.40 USD" in outcome.said


@pytest.mark.slow
def test_what_was_charged_is_what_a_run_cost(laboratory, faults):
    """Takes the bill for the cost, in the store, the budget, the ledger and MLflow, with the estimate beside it."""
    faults({"at": "bills", "fault": "discount", "percent": 10})
    one = cell("a cheaper fox")
    assert laboratory.run("billed", one).exit_code == 0
    state = laboratory.state(one)
    assert (state.spent_usd, state.committed_usd, state.estimate_usd) == (1.26, 1.26, PRICE_USD)
    run = laboratory.tracked("billed")[one.name]
    assert (run.data.metrics["cost_usd"], run.data.tags["estimate_usd"]) == (1.26, "1.4")
    (bought,) = laboratory.bought(one)
    assert bought["tags"] == f"sweep=billed,key={one.request.key}"
    lines = [line for line in ledger.read_ledger(laboratory.folder / "store").lines if line.sweep == "billed"]
    assert ledger.totals(lines, "sweep")["billed"][Cost.SPENT] == [1.26]
    assert lines[0].row()["billed_usd"] == 1.26


@pytest.mark.slow
def test_a_bill_that_comes_later_is_asked_for_later(laboratory, faults, capsys):
    """Estimates until fal tells; then the same command, or the ledger, writes what was charged, to MLflow too."""
    faults({"at": "bills", "fault": "lag", "seconds": 3600})
    runs = [cell("billed by a command"), cell("billed by the ledger")]
    assert laboratory.run("later", *runs).exit_code == 0
    assert [laboratory.state(one).spent_usd for one in runs] == [PRICE_USD] * 2
    faults({"at": "bills", "fault": "discount", "percent": 50})
    assert laboratory.run("later", runs[0]).exit_code == 0
    assert [laboratory.state(one).spent_usd for one in runs] == [0.7, PRICE_USD]
    assert laboratory.tracked("later")[runs[0].name].data.metrics["cost_usd"] == 0.7
    store, tracking = str(laboratory.folder / "store"), laboratory.tracking_uri
    client = MlflowClient(tracking)
    tags = {"request_key": runs[1].request.key, "provider": "emulator"}
    emulated = client.create_run(
        client.create_experiment("kling_sweeps/later (emulator)"), tags=tags
    ).info.run_id
    client.log_metric(emulated, "cost_usd", PRICE_USD)
    asked = [
        "--store",
        store,
        "--reconcile",
        "--base-url",
        laboratory.emulator.base_url,
        "--tracking",
        tracking,
    ]
    assert ledger.main(asked) == 0
    assert "USD expected, " in capsys.readouterr().out
    assert laboratory.state(runs[1]).spent_usd == 0.7
    run = laboratory.tracked("later")[runs[1].name]
    assert (run.data.metrics["cost_usd"], run.data.tags["estimate_usd"]) == (0.7, "1.4")
    assert client.get_run(emulated).data.metrics["cost_usd"] == PRICE_USD
    assert ledger.main(asked) == 0
    assert "fal has said of all that was bought" in capsys.readouterr().out


@pytest.mark.slow
def test_a_key_that_may_not_ask_is_told_once(laboratory, faults, caplog, capsys):
    """Says once in a command that costs stay estimated, asks no further, and ends well."""
    faults({"at": "bills", "fault": "forbidden_403"})
    before = httpx.get(f"{laboratory.emulator.base_url}/_emulator/counters").json()["bills"]
    with caplog.at_level(logging.WARNING):
        runs = [cell(f"not told {number}") for number in range(4)]
        assert laboratory.run("untold", *runs, in_flight=1).exit_code == 0
    assert caplog.text.count("this key may not ask for bills") == 1
    assert httpx.get(f"{laboratory.emulator.base_url}/_emulator/counters").json()["bills"] == before + 1
    store = str(laboratory.folder / "store")
    assert ledger.main(["--store", store, "--reconcile", "--base-url", laboratory.emulator.base_url]) == 1
    assert "may not ask what was charged" in capsys.readouterr().err


NUMBER = {"type": "number", "minimum": 0}
BILL = {
    "request_id": {"type": "string"},
    "endpoint_id": {"type": "string"},
    "timestamp": {"type": "string"},
    "output_units": {"type": ["number", "null"], "minimum": 0},
    "unit_price": {"type": ["number", "null"], "minimum": 0},
    "percent_discount": {"type": ["number", "null"]},
    **dict.fromkeys(("cost_subtotal", "cost_discount", "cost_total", "cost_estimate_nano_usd"), NUMBER),
}
PAGE = {"next_cursor": {"type": ["string", "null"]}, "has_more": {"type": "boolean"}}


def whole(properties: dict) -> dict:
    """Return the schema of an object that has all of its properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.slow
def test_the_emulator_bills_as_fal_does(laboratory, faults):
    """Answers with bills, pages of them, and the balance in the shape that fal's API has."""
    laboratory.run("shape", cell("one bill"), cell("another bill"))
    faults({"at": "bills", "fault": "small_pages"})
    api, key = f"{laboratory.emulator.base_url}/v1", {"Authorization": "Key any"}
    listed = {"type": "array", "minItems": 1, "items": whole(BILL)}
    page = httpx.get(f"{api}/models/billing-events", headers=key).json()
    jsonschema.validate(page, whole({**PAGE, "billing_events": listed}))
    assert page["has_more"]
    more = httpx.get(
        f"{api}/models/billing-events", headers=key, params={"cursor": page["next_cursor"]}
    ).json()
    assert more["billing_events"][0]["request_id"] != page["billing_events"][0]["request_id"]
    ids = ",".join(map(str, range(51)))
    assert (
        httpx.get(f"{api}/models/billing-events", headers=key, params={"request_id": ids}).status_code == 400
    )
    account = httpx.get(f"{api}/account/billing", headers=key, params={"expand": "credits"}).json()
    credits = whole({"current_balance": NUMBER, "currency": {"const": "USD"}})
    jsonschema.validate(account, whole({"username": {"type": "string"}, "credits": credits}))
    assert httpx.get(f"{api}/account/billing").status_code == 401
