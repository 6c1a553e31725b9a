"""BN statistics that can be restored: a step overwrites them before it is known to be finite."""

from __future__ import annotations

from mindspore import Parameter, nn, ops

from .network import SEResNeXt


class Statistics(nn.Cell):
    """A network's BN statistics, and a copy of them after the last finite step."""

    def __init__(self, network: SEResNeXt) -> None:
        super().__init__(auto_prefix=False)
        self.present = tuple(p for p in network.tensors.values() if not p.requires_grad)
        self.kept = tuple(
            Parameter(p.asnumpy().copy(), name=f"kept.{p.name}", requires_grad=False)
            for p in self.present
        )
        self.map = ops.HyperMap()

    def keep(self):  # type: ignore[no-untyped-def]
        """Copy those of the network. Also called outside a graph, after loading."""
        self.map(ops.assign, self.kept, self.present)

    def restore(self):  # type: ignore[no-untyped-def]
        """Copy the kept ones back into the network."""
        self.map(ops.assign, self.present, self.kept)

    def load(self, values):  # type: ignore[no-untyped-def]
        """Copy the tuple `values` into the network."""
        self.map(ops.assign, self.present, values)
