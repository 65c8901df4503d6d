"""The plan of a command: its cells, how far the store has each, and what the rest costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kling_sweeps.errors import BudgetError
from kling_sweeps.experiment.price import Price, Quote, amount
from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.settings import Cell, Policy
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import DIGITS, OVER, Stage, State

WORDS = {
    Stage.NEW: "to generate",
    Stage.UNKNOWN: "to look up",
    Stage.SUBMITTED: "to collect",
    Stage.COMPLETED: "to collect",
    Stage.FETCHED: "to collect",
    Stage.FINISHED: "in the store",
    Stage.FAILED: "failed",
    Stage.DAMAGED: "damaged",
}


@dataclass(frozen=True)
class PlannedCell:
    """A cell and its state in the store; `is_repeat` tells that an earlier cell has the same request.

    `is_retried` tells that the user's policy pays again for one that failed or whose answer was lost, `fits` that
    the budget allows the cell, and `quote` says whose price a new one has.
    """

    cell: Cell
    state: State
    is_repeat: bool
    is_retried: bool
    fits: bool = True
    quote: Quote | None = None

    @property
    def status(self) -> str:
        if not self.fits:
            return "over budget"
        if self.is_repeat:
            return "as above"
        if self.state.is_unreadable:
            return "unreadable"
        words = WORDS[self.state.stage]
        if self.is_retried:
            words = "to generate again" if self.state.is_failed else "to look up or generate again"
        return words if self.cell.request.product is Product.VIDEO else words.replace("generate", "ask")

    @property
    def is_new(self) -> bool:
        is_wanted = self.state.stage is Stage.NEW or self.is_retried
        return is_wanted and self.fits and not self.is_repeat

    @property
    def cost_usd(self) -> float | None:
        """Return what the cell is going to cost in USD, None where it has no known price."""
        return self.cell.request.price_usd if self.is_new else 0.0


@dataclass(frozen=True)
class Plan:
    """All cells of a command, in its order; `told` is what fal says today of the endpoints of new ones.

    What belongs to the same command besides costs at most `more_usd`, and has cost, or may have, `before_usd`; `refusal`
    says why nothing may be bought, "" where it may.
    """

    planned: Sequence[PlannedCell]
    told: Mapping[str, Price] = field(default_factory=dict)
    more_usd: float = 0.0
    before_usd: float = 0.0
    refusal: str = ""

    @property
    def new_endpoints(self) -> set[str]:
        """Return the endpoints whose prices are asked for; what an answer costs is bounded by who asks."""
        new = (planned.cell.request for planned in self.planned if planned.is_new)
        return {request.endpoint for request in new if request.product is Product.VIDEO}

    def quoted(self, told: Mapping[str, Price]) -> Plan:
        """Return the plan with new cells at the prices that hold where fal says this of their endpoints."""
        planned = []
        for one in self.planned:
            cell, quote = one.cell.quoted(told.get(one.cell.request.endpoint))
            planned.append(replace(one, cell=cell, quote=quote) if one.is_new else one)
        return Plan(planned, told)

    @property
    def price_words(self) -> str:
        """Return whose prices the new cells have, and of which date."""
        quotes = [(one.quote, one.cell) for one in self.planned if one.quote and one.quote.usd is not None]
        dates = sorted({cell.price.as_of for quote, cell in quotes if not quote.is_fals and cell.price})
        words = ["as fal says today"] * any(quote.is_fals for quote, _ in quotes)
        words += [f"as of {date}" if date else "by the model's file" for date in dates]
        return " or ".join(words)

    @property
    def disputes(self) -> list[str]:
        """Return where fal says another price than a model's file."""
        found = {}
        for one in self.planned:
            price, told = one.cell.price, self.told.get(one.cell.request.endpoint)
            if one.quote and one.quote.is_disputed and price and told:
                filed = f"{price.usd:g} USD a {price.per}" + f" as of {price.as_of}" * bool(price.as_of)
                found[one.cell.model] = (
                    f"{one.cell.model}: fal says {told.usd:g} USD a {told.per} today, and its file {filed}. The higher "
                    "price counts; where fal is right, correct `price:` in that file."
                )
        return [*found.values()]

    @property
    def total_usd(self) -> float:
        """Return what the plan costs in USD, without cells that have no known price."""
        return round(sum(planned.cost_usd or 0.0 for planned in self.planned), DIGITS)

    @property
    def committed_usd(self) -> float:
        """Return what the cells, and what belongs to the command besides, have cost before, or may have, in USD."""
        own = sum(p.state.committed_usd for p in self.planned if not p.is_repeat)
        return round(own + self.before_usd, DIGITS)

    @property
    def pending(self) -> bool:
        """Tell whether a cell is left that takes a provider."""
        return any(p.is_new or p.state.stage not in OVER for p in self.planned)

    def check_price(self) -> None:
        """Raise BudgetError where a cell has no known price."""
        for planned in self.planned:
            if planned.cost_usd is None:
                raise BudgetError(
                    f"{planned.cell.model} has no price, so what this costs can't be known. Give its file a "
                    "price, or accept that: budget.allow_unknown_price=true"
                )

    def check_budget(self, max_usd: float) -> None:
        """Raise BudgetError where the plan, with what its cells have cost before, is over budget, or nothing may be bought."""
        if self.refusal:
            raise BudgetError(self.refusal)
        new = round(self.total_usd + self.more_usd, DIGITS)
        whole = round(self.committed_usd + new, DIGITS)
        if not any(planned.fits for planned in self.planned):
            raise BudgetError(f"nothing of this fits into budget.max_usd={max_usd:g}")
        if new and whole > max_usd:
            before = f", after {amount(self.committed_usd)} USD before" if self.committed_usd else ""
            raise BudgetError(
                f"this costs {amount(new)} USD{before}, and budget.max_usd={max_usd:.10g}. Sweep less, "
                f"run what fits with budget.partial=true, or allow it: budget.max_usd={whole:.10g}"
            )

    def fitted(self, max_usd: float) -> Plan:
        """Return the plan with `fits` set: cells in the order of their sample, as long as the budget lasts."""
        left = round(max_usd - self.committed_usd, DIGITS)
        fits: dict[str, bool] = {}
        for planned in sorted(self.planned, key=lambda planned: planned.cell.request.sample):
            cost = planned.cost_usd or 0.0
            key = planned.cell.request.key
            fits[key] = fits.get(key, not cost or cost <= left)
            left = round(left - cost * fits[key], DIGITS)
        return replace(self, planned=[replace(p, fits=fits[p.cell.request.key]) for p in self.planned])


def make_plan(cells: Sequence[Cell], store: Store, policy: Policy, is_ephemeral: bool) -> Plan:
    """Look each cell up in the store, and plan what is to be done for it.

    `is_ephemeral` tells that the provider is an emulator started for this command, which has no earlier requests.
    """
    planned: list[PlannedCell] = []
    seen: set[str] = set()
    for cell in cells:
        key, state = cell.request.key, store.entry(cell.request).state()
        if is_ephemeral and state.is_open:
            state = State()
        planned.append(PlannedCell(cell, state, key in seen, state.may_be_bought_again(policy)))
        seen.add(key)
    return Plan(planned)
