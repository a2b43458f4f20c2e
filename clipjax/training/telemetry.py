"""What a run tells: metrics.jsonl, TensorBoard, Weights & Biases, and the line on the terminal."""

import contextlib
import json
import pathlib
from typing import Any

import jax

from clipjax.config import Config
from clipjax.data.files import replace_text
from clipjax.errors import UserError
from clipjax.models.flops import forward_flops

# Dense bfloat16 peaks in FLOP/s, as the makers state them; a device that is not here has no utilisation reported.
_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


class Telemetry:
    """Writes one record a step to every place configured; does nothing on hosts after the first."""

    def __init__(self, workdir: pathlib.Path, config: Config, first_step: int):
        """Lines of steps from `first_step` on are dropped from metrics.jsonl: they are about to be run again."""
        self._first_host = jax.process_index() == 0
        self._config = config
        self._peak = _PEAKS.get(jax.devices()[0].device_kind)
        self._board = self._wandb = None
        if not self._first_host:
            return
        self._workdir, self._first_step = workdir, first_step
        path = workdir / "metrics.jsonl"
        keep_before(path, first_step)
        self._file = path.open("a")
        if config.wandb_project:
            self._wandb = _start_wandb(config, workdir)

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Write the numbers of one step, a JSON object a line."""
        if not self._first_host:
            return
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()  # which tries once more to write the line
            raise UserError(f"{self._file.name}: cannot be written ({error.strerror}). Make room there.") from None
        if self._board is None:  # not at the start: where torch is installed, tensorboardX imports it, for seconds
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=self._first_step)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def utilisation(self, pairs_per_second: float, text_length: int, step: int) -> float | None:
        """Useful model FLOP/s over the devices' peak, in [0, 1]; None where the peak is not known.

        Pictures count with the size and the patches of the stage that `step` (from 0) lies in, texts with the tokens
        that they were cut to, frozen towers without a backward pass: what is not computed is no use of the device.
        """
        if self._peak is None:
            return None
        config = self._config.at(step)
        towers = zip(("image", "text"), forward_flops(config.model, text_length, config.patch_dropout), strict=True)
        flops = sum(forward * (1 if tower == config.freeze else 3) for tower, forward in towers)  # backward costs two
        return flops * pairs_per_second / (self._peak * jax.device_count())

    def close(self) -> None:
        """Flush and close everything."""
        if not self._first_host:
            return
        self._file.close()
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()


def read_metrics(path: pathlib.Path) -> list[dict]:
    """The records of a metrics.jsonl, in order; a torn line is passed over, a missing file is empty."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def keep_before(path: pathlib.Path, step: int) -> None:
    """Keep only the whole lines of a metrics.jsonl whose step is below `step`."""
    replace_text(path, "".join(json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] < step))


def _start_wandb(config: Config, workdir: pathlib.Path):
    try:
        import wandb
    except ImportError:
        raise UserError(
            "wandb_project: Weights & Biases is not installed. Run: pip install 'clipjax[wandb]'."
        ) from None
    from dataclasses import asdict

    return wandb.init(project=config.wandb_project, dir=str(workdir), config=asdict(config), resume="allow")
