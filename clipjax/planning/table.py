"""A plan as a table for people: what was compiled, what was counted, what is an estimate."""

import json

from clipjax.planning.plan import Plan
from clipjax.training.memory import in_words

_COSTS = ("bound", "serial")


def table(plan: Plan, price_per_chip_hour: float | None = None) -> str:
    """The plan in lines; with a price also that of the config's whole run."""
    parts = [_head(plan), _memory(plan), _time(plan), _network(plan)]
    if price_per_chip_hour is not None and plan.fits:
        parts.append(_price(plan, price_per_chip_hour))
    parts.append(["advice", *(f"  {row}" for row in plan.advice)] if plan.advice else [])
    return "\n".join(line for part in parts for line in part)


def as_json(plan: Plan, price_per_chip_hour: float | None = None) -> str:
    """The plan as one JSON object; with a price, and where it fits, also `price`."""
    made = plan.as_dict()
    if price_per_chip_hour is not None and plan.fits:
        made["price"] = price(plan, price_per_chip_hour)
    return json.dumps(made, indent=2)


def price(plan: Plan, price_per_chip_hour: float) -> dict[str, float]:
    """Hours and price of the config's samples: at the bound, and where nothing overlaps."""
    chips = plan.found["devices"] / plan.found["devices_per_chip"]
    made = {"chips": chips}
    for name, seconds in zip(_COSTS, (plan.step_seconds["total"], plan.serial_seconds), strict=True):
        hours = plan.config.total_steps * seconds / 3600
        made |= {f"hours_{name}": hours, f"price_{name}": hours * chips * price_per_chip_hour}
    return made


def _head(plan: Plan) -> list[str]:
    config, found = plan.config, plan.found
    mesh = " x ".join(f"{name} {size}" for name, size in found["sizes"].items())
    micro = config.micro_batch_size or config.batch_size
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [
        f"{config.model.preset} on {plan.topology}: {'fits' if plan.fits else 'DOES NOT FIT'}",
        f"  {found['devices']} devices, mesh {mesh}; batch {config.batch_size:,} in parts of {micro:,}; "
        f"{config.precision}, remat {config.remat}; {versions}",
    ]


def _memory(plan: Plan) -> list[str]:
    found, sizes = plan.found, plan.bytes_per_chip
    said = {"parameters": "exact", "moments": "exact", "activations": "counted: the batch, and what the loops keep"}
    said |= {"temporaries": f"the rest; of it gradients {in_words(found['gradients'])}"}
    share = f"{sizes['total'] / plan.chip_memory_bytes:.0%} of {in_words(plan.chip_memory_bytes)}"
    if "total" in found:
        said["total"] = f"{share}, as compiled; arguments and temporaries {in_words(found['apart'])}"
    else:
        said["total"] = f"{share}, as the compiler says"
    return ["memory of a device", *(f"  {name:12} {in_words(size):>10}  {said[name]}" for name, size in sizes.items())]


def _time(plan: Plan) -> list[str]:
    found, terms = plan.found, plan.step_seconds
    executed = found["executed"] / plan.flops_per_step
    rows = [
        "time of a step, estimated: each term alone, at the full rate of the device",
        f"  compute      {_ms(terms['compute'])}  {plan.flops_per_step:.3e} FLOP useful, {executed:.2f} of that done",
    ]
    if "total" not in found:
        return rows
    host = f", {in_words(found['offloaded'])} to the host and back" if found["offloaded"] else ""
    limit = max(("compute", "memory", "network"), key=lambda name: terms[name])
    rows += [
        f"  memory       {_ms(terms['memory'])}  {in_words(found['traffic'])} read and written{host}",
        f"  network      {_ms(terms['network'])}  {in_words(sum(row['wire'] for row in found['collectives']))} sent",
        f"  bound        {_ms(terms['total'])}  utilisation {plan.utilisation:.0%}, limited by {limit}",
        f"  serial       {_ms(plan.serial_seconds)}  utilisation {plan.utilisation_serial:.0%}, if nothing overlaps",
    ]
    if (seconds := plan.compiler_seconds) is not None:
        share = plan.useful_seconds / seconds
        rows.append(f"  compiler     {_ms(seconds)}  utilisation {share:.0%}, its own serial estimate, network apart")
    if found["counted"]:
        ratio = found["executed_once"] / found["devices"] / found["counted"]
        rows.append(f"  rates {found['rates']['source']}; our count is {ratio:.3f} of the compiler's, loop bodies once")
    return rows


def _network(plan: Plan) -> list[str]:
    rows = plan.found.get("collectives", [])
    if not rows:
        return []
    head = f"  {'kind':18}  {'axis':14}  {'type':5}  {'count':>8}  {'payload':>10}  {'sent':>10}"
    lines = [
        f"  {row['kind']:18}  {row['axis']:14}  {row['dtype']:5}  {row['count']:>8,}  "
        f"{in_words(row['bytes']):>10}  {in_words(row['wire']):>10}"
        for row in rows
    ]
    return ["collectives of a step, as compiled", head, *lines]


def _price(plan: Plan, price_per_chip_hour: float) -> list[str]:
    made = price(plan, price_per_chip_hour)
    samples = plan.config.total_steps * plan.config.batch_size
    lines = [f"  {name:12} {made[f'price_{name}']:>10,.0f}  {made[f'hours_{name}']:,.1f} h" for name in _COSTS]
    return [
        f"price of {samples:,} samples on {made['chips']:.0f} chips at {price_per_chip_hour:g} a chip and hour",
        *lines,
    ]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:>9.3f} ms" if seconds < 0.1 else f"{1e3 * seconds:>9.0f} ms"
