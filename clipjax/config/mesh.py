"""The mesh section: how many devices each axis takes."""

from dataclasses import dataclass

from clipjax.errors import UserError


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes. `data=-1` takes the devices that the other axes leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = [
            f"{name}: {getattr(self, name)} should be at least 1"
            for name in ("fsdp", "tensor")
            if getattr(self, name) < 1
        ]
        if self.data < 1 and self.data != -1:
            rows.append(f"data: {self.data} should be at least 1, or -1 for all devices that remain")
        return rows

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """(data, fsdp, tensor) on so many devices; raises UserError where they do not fit."""
        rest = self.fsdp * self.tensor
        if self.data == -1 and devices % rest:
            raise UserError(
                f"mesh: fsdp={self.fsdp} x tensor={self.tensor} does not divide the {devices} devices here. "
                "Choose mesh.fsdp and mesh.tensor so that their product does."
            )
        data = devices // rest if self.data == -1 else self.data
        if data * rest != devices:
            raise UserError(
                f"mesh: data={data} x fsdp={self.fsdp} x tensor={self.tensor} needs {data * rest} devices, "
                f"but {devices} are here. Set mesh.data=-1 to take what remains."
            )
        return data, self.fsdp, self.tensor
