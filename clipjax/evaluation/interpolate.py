"""`interpolate`: the models on the line between two checkpoints, scored (WiSE-FT, Wortsman et al. 2022).

Fine-tuning wins on its own data and loses elsewhere; weights between the two ends often keep most of both.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipjax.config import differences
from clipjax.data.files import make_folder, replace_text
from clipjax.errors import UserError
from clipjax.evaluation.report.interpolation import page
from clipjax.evaluation.suite import evaluate_live
from clipjax.progress import say

if TYPE_CHECKING:
    from clipjax.bundle import Bundle

ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))


def interpolate(
    zero: "Bundle",
    fine: "Bundle",
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    alphas: Iterable[float] = ALPHAS,
    batch_size: int = 64,
) -> dict:
    """Score (1 - alpha) zero + alpha fine on the data sets at `data`, for each alpha; 0 and 1 are the ends themselves.

    Pictures and prompts are embedded anew for each. Writes `out`/report.json and `out`/report.html and returns the
    record: `zero`, `fine`, `created`, `results` (rows as in an evaluation's report, each with its `alpha`). Raises
    UserError for models that differ in more than their numbers and for an alpha outside of [0, 1].
    """
    alphas, out = _checked(alphas), make_folder(out)  # what is wrong shows before anything is embedded
    rows = []
    for alpha, bundle in mixtures(zero, fine, alphas):
        say(f"alpha {alpha:g}")
        results = evaluate_live(bundle, data, out, batch_size=batch_size, write=False)
        rows += [{"alpha": alpha, **result.row()} for result in results]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"zero": zero.name, "fine": fine.name, "created": created, "results": rows}
    replace_text(out / "report.html", page(record))
    replace_text(out / "report.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return record


def mixtures(zero: "Bundle", fine: "Bundle", alphas: Iterable[float]) -> Iterator[tuple[float, "Bundle"]]:
    """(alpha, model) for each alpha: parameters and running averages alike, computed in float32.

    What lies between the ends has the config of `fine`. Raises UserError where the two are not the same model.
    """
    alphas = _checked(alphas)
    _check_same(zero, fine)
    low, high = zero.weights().arrays, fine.weights().arrays
    for alpha in alphas:
        if alpha in (0, 1):
            yield alpha, (fine if alpha else zero)
            continue
        share = np.float32(alpha)
        # logit_bias may be in one alone, where the losses differ; no feature depends on it
        arrays = {path: (1 - share) * low.get(path, leaf) + share * leaf for path, leaf in high.items()}
        yield alpha, fine.with_arrays(arrays, f"{zero.name} + {alpha:g} ({fine.name} - {zero.name})")


def parse_alphas(text: str) -> list[float]:
    """The numbers of a list such as `0,0.5,1`; raises UserError for anything else."""
    try:
        return _checked(map(float, text.split(",")))
    except ValueError:
        raise UserError(f"alphas: {text!r} should be numbers between 0 and 1, such as 0,0.5,1.") from None


def _checked(alphas: Iterable[float]) -> list[float]:
    alphas = sorted({float(alpha) for alpha in alphas})
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):  # NaN too
        raise UserError(f"alphas: {alphas} should be numbers from 0 (the first checkpoint) to 1 (the second).")
    return alphas


def _check_same(zero: "Bundle", fine: "Bundle") -> None:
    rows = differences(zero.config.model, fine.config.model)
    if rows:
        said = "; ".join(f"model.{key} is {one} and {other}" for key, (one, other) in rows.items())
        raise UserError(
            f"interpolate: {zero.name} and {fine.name} are not the same model: {said}. "
            "Give a checkpoint and what was fine-tuned from it at the same sizes."
        )
