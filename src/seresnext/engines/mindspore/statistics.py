"""BN statistics that can be restored: a step overwrites them before it is known to be finite."""

from __future__ import annotations

from mindspore import Parameter, nn, ops

from .network import SEResNeXt


class Statistics(nn.Cell):
    """A network's BN statistics that move, and a copy of them after the last finite step."""

    def __init__(self, network: SEResNeXt) -> None:
        super().__init__(auto_prefix=False)
        fixed = network.arithmetic.fixed
        self.present = tuple(
            p for n, p in network.tensors.items() if not p.requires_grad and n not in fixed
        )
        self.kept = tuple(
            Parameter(p.asnumpy().copy(), name=f"kept.{p.name}", requires_grad=False)
            for p in self.present
        )
        self.map = ops.HyperMap()

    def keep(self):  # type: ignore[no-untyped-def]
        """Copy those of the network. Also called outside a graph, after loading."""
        if len(self.present) > 0:
            self.map(ops.assign, self.kept, self.present)

    def restore(self):  # type: ignore[no-untyped-def]
        """Copy the kept ones back into the network."""
        if len(self.present) > 0:
            self.map(ops.assign, self.present, self.kept)

    def load(self, values):  # type: ignore[no-untyped-def]
        """Copy the tuple `values` into the network."""
        self.map(ops.assign, self.present, values)
