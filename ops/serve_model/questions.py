"""What is asked of the model: how many replicas a crowd takes, what order does, and is it right."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace

from ops.serve_model.measured import measure, null_server
from ops.serve_model.serving import Figures, Serving
from ops.serve_model.simulated import simulate
from policy_server.link import PolicyLink
from policy_server.scheduler import GATHER_S

ROUTES = ("hash", "even", "least")
"""An arm's replica: by its name's hash, by turns, or the least loaded anew for each request."""
STARVED_SHARE = 0.001
"""Of ticks without a row, below which a crowd is served well."""
MIXED_ROWS, MIXED_ARMS = (8, 32), (14, 18, 24)
"""Chunks of arms that are in a hurry and of others, and how many arms share a replica."""
CHECKED_ARMS, CHECK_S, CHECK_WARM_UP_S = (1, 2, 4, 8), 8.0, 2.0

type Row = Mapping[str, object]


def replicas_needed(serving: Serving) -> Figures | None:
    """Return the figures of the fewest replicas, by doubling and halving, that serve it well.

    None where not even a replica for each arm does.
    """
    enough = serving.fewest_replicas
    too_few = enough - 1
    while not serves_well(found := simulate(replace(serving, replicas=enough))):
        if enough >= serving.arms:
            return None
        too_few, enough = enough, min(2 * enough, serving.arms)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = simulate(replace(serving, replicas=middle))
        if serves_well(tried):
            enough, found = middle, tried
        else:
            too_few = middle
    return found


def by_order(serving: Serving) -> list[Row]:
    """Return how arms with short and long chunks share a replica, in order of arrival or slack."""
    rows: list[Row] = []
    for arms in MIXED_ARMS:
        for says_slack in (False, True):
            mixed = replace(
                serving, arms=arms, replicas=1, horizons=MIXED_ROWS, says_slack=says_slack
            )
            order = "slack" if says_slack else "arrival"
            rows.append({"order": order, **asdict(simulate(mixed))})
    return rows


def serves_well(figures: Figures) -> bool:
    """Return whether nearly all ticks had a row."""
    return figures.starved_share < STARVED_SHARE


def needs(serving: Serving, crowds: Sequence[int]) -> list[Row]:
    """Return for each crowd and route how many replicas keep it in rows."""
    return [
        {"route": route, **(asdict(found) if found else {"arms": arms, "replicas": None})}
        for arms in crowds
        for route in ROUTES
        for found in [replicas_needed(replace(serving, arms=arms, route=route))]
    ]


def check(serving: Serving, takes: str) -> list[Row]:
    """Return predicted and measured latency of a null policy on this machine, ms.

    `takes` are its milliseconds a batch and a request. The way is taken to cost nothing; nothing
    is fitted.
    """
    rows: list[Row] = []
    with null_server(takes) as url:
        with closing(PolicyLink(url)) as link:
            horizon = link.spec.horizon
        for arms in CHECKED_ARMS:
            crowd = replace(
                serving,
                arms=arms,
                replicas=1,
                horizons=(horizon,),
                network_s=0.0,
                jitter_s=0.0,
                gather_s=GATHER_S,
                says_slack=False,
                episode_s=math.inf,
                warm_up_s=CHECK_WARM_UP_S,
                seconds=CHECK_S,
            )
            rows.append(compared(simulate(crowd), measure(url, crowd)))
    return rows


def compared(predicted: Figures, measured: Figures) -> Row:
    """Return both, and by what share of the measured the prediction is off."""
    row: dict[str, object] = {"arms": measured.arms, "requests": measured.requests}
    for name in ("p50_ms", "p99_ms"):
        ours, theirs = getattr(predicted, name), getattr(measured, name)
        row |= {f"predicted_{name}": ours, f"measured_{name}": theirs}
        row[f"{name.removesuffix('_ms')}_error"] = round(ours / theirs - 1, 3)
    row["predicted_starved_share"] = predicted.starved_share
    row["measured_starved_share"] = measured.starved_share
    return row
