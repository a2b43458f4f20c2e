"""The data section: where pairs come from and how a picture becomes a training crop."""

from dataclasses import dataclass

from clipjax.config.checks import at_least, one_of


@dataclass(frozen=True)
class DataConfig:
    """Sources and augmentation.

    `train` lists sources (globs, brace ranges, `tfds:NAME`, addresses), `evaluate` the folders scored while training.
    `crop_scale` is the area range of `random_resized_crop`. Empty `caption_key` and `image_key` mean the usual names.
    `shuffle_shards` is how many shards an epoch mixes at a time (0: all). `cache_gb` (1e9 bytes) bounds what a host
    keeps of shards at addresses.
    `max_unreadable` is the share of records, in [0, 1], that may be unusable before the run stops.
    """

    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    augmentation: str = "random_crop"
    crop_scale: tuple[float, ...] = (0.9, 1.0)
    horizontal_flip: bool = False
    caption_key: str = ""
    image_key: str = ""
    workers: int = 2
    shuffle_shards: int = 0
    cache_gb: float = 100.0
    max_unreadable: float = 0.1

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = one_of(self, "augmentation", "random_crop", "random_resized_crop", "center_crop")
        rows += at_least(self, 0, "workers", "shuffle_shards")
        if not self.cache_gb > 0:
            rows.append(f"cache_gb: {self.cache_gb:g} should be more than 0")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[-1] <= 1:
            rows.append(f"crop_scale: {self.crop_scale} should be two shares of the area, 0 < low <= high <= 1")
        if not 0 <= self.max_unreadable <= 1:
            rows.append(f"max_unreadable: {self.max_unreadable} should be a share between 0 and 1")
        return rows
