"""The mesh section: how many devices each axis takes."""

from dataclasses import dataclass

from clipjax.errors import UserError


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes. `data=-1` takes the devices that the other axes leave.

    Of several slices (TPUs that are joined by the slower network between machines) data takes the outermost part, so
    that gradients alone cross from one to another.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    num_slices: int = 1

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = [
            f"{name}: {getattr(self, name)} should be at least 1"
            for name in ("fsdp", "tensor", "num_slices")
            if getattr(self, name) < 1
        ]
        if self.data < 1 and self.data != -1:
            rows.append(f"data: {self.data} should be at least 1, or -1 for all devices that remain")
        elif self.num_slices > 1 and self.data > 0 and self.data % self.num_slices:
            rows.append(f"num_slices: {self.num_slices} does not divide mesh.data={self.data}")
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
        if data % self.num_slices:
            raise UserError(
                f"mesh.num_slices: {self.num_slices} does not divide mesh.data={data}, which spans the slices. "
                "Choose mesh.fsdp and mesh.tensor so that they fit into one slice."
            )
        return data, self.fsdp, self.tensor
