"""A population over several devices: each trains its share of the members, and none waits for another's numbers.

A program for `k` members per device is run on all devices at once (`jax.shard_map`: the same program everywhere, no
communication, so the work per device is exactly the share). Member number `d * k + j` is slot `j` of device `d`, and
its state lives there from epoch to epoch. The arrays of slot `j`, one per device, are seen by the program as one array
that is divided along its first axis; none of them is copied or stacked for that.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from manyfit.training.population.arrays import (
    AXIS,
    Array,
    Arrays,
    ArrayTree,
    Function,
    State,
    mesh,
    num_devices,
    shape_of,
)
from manyfit.training.population.compile import Compiled, Effort, compile_function, compiled_from

Leaf: TypeAlias = Array | jax.ShapeDtypeStruct


class OneDevice:
    """Where there is one device, there is nothing to divide."""

    num_devices = 1

    def gather(self, states: Sequence[State]) -> list[ArrayTree]:
        """The members' states as a program takes them: a tree per slot of one device."""
        return list(states)

    def scatter(self, slots: Sequence[ArrayTree]) -> list[State]:
        """The inverse of `gather`."""
        return list(slots)

    def split(self, tree: ArrayTree) -> ArrayTree:
        """Arrays whose first axis are the members, as a program takes them."""
        return tree

    def joined(self, tree: ArrayTree) -> ArrayTree:
        """The inverse of `split`."""
        return tree

    def compile(
        self,
        function: Function,
        arguments: Sequence[ArrayTree],
        *,
        effort: Effort = "full",
        one_thread: bool = False,
        donate: tuple[int, ...] = (),
    ) -> Compiled:
        """See `compile_function`."""
        return compile_function(function, arguments, effort=effort, one_thread=one_thread, donate=donate)


# Not registered with JAX, and so a leaf of its trees: what goes through `jax.tree.map` stays together with its flag.
@dataclasses.dataclass(frozen=True)
class DeviceSplit:
    """An array that is divided between devices along its first axis; to the function on a device it is its share.

    Attributes:
        array: an array, or its shape, over all devices.
        scalar: whether the share of each device is one number, without an axis.
    """

    array: Leaf
    scalar: bool = False

    def __getitem__(self, key: slice | int | tuple[slice | int, ...]) -> DeviceSplit:
        assert not isinstance(self.array, jax.ShapeDtypeStruct)  # shapes are not cut
        return DeviceSplit(self.array[key], self.scalar)


class ManyDevices(OneDevice):
    """Divides members between devices.

    Args:
        mesh: devices of this process, in a row.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self.mesh = mesh
        self.devices = list(mesh.devices.flat)
        self.num_devices = len(self.devices)
        self._divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
        self._shared = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def gather(self, states: Sequence[State]) -> list[ArrayTree]:
        """See `OneDevice`. A state that lies elsewhere is moved."""
        # Member `d * k + j` stays on device `d` from epoch to epoch: `device_put` of what lies there already does
        # nothing.
        per_device = len(states) // self.num_devices
        placed = [
            _with_axes(jax.device_put(state, self.devices[number // per_device])) for number, state in enumerate(states)
        ]
        scalars = jax.tree.map(lambda leaf: np.ndim(leaf) == 0, states[0])
        slots = []
        for slot in range(per_device):
            shares = [placed[device * per_device + slot] for device in range(self.num_devices)]
            slots.append(jax.tree.map(self._joined_shares, scalars, *shares))
        return slots

    def _joined_shares(self, scalar: bool, *shares: jax.Array) -> DeviceSplit:
        shape = (self.num_devices * shares[0].shape[0], *shares[0].shape[1:])
        return DeviceSplit(jax.make_array_from_single_device_arrays(shape, self._divided, list(shares)), scalar)

    def scatter(self, slots: Sequence[ArrayTree]) -> list[State]:
        """See `OneDevice`."""
        states: dict[int, State] = {}
        for slot, tree in enumerate(slots):
            leaves, structure = jax.tree.flatten(tree)
            scalars = tuple(leaf.scalar for leaf in leaves)
            by_device = [{share.device: share.data for share in leaf.array.addressable_shards} for leaf in leaves]
            for number, device in enumerate(self.devices):
                shares = _without_axes([found[device] for found in by_device], scalars)
                states[number * len(slots) + slot] = jax.tree.unflatten(structure, shares)
        return [states[number] for number in range(len(states))]

    def split(self, tree: ArrayTree) -> ArrayTree:
        """See `OneDevice`."""
        return jax.tree.map(DeviceSplit, tree)

    def joined(self, tree: ArrayTree) -> ArrayTree:
        """See `OneDevice`."""
        return jax.tree.map(lambda leaf: leaf.array, tree)

    def compile(
        self,
        function: Function,
        arguments: Sequence[ArrayTree],
        *,
        effort: Effort = "full",
        one_thread: bool = False,
        donate: tuple[int, ...] = (),
    ) -> Compiled:
        """See `compile_function`; leaves that are `DeviceSplit` are divided, all others are every device's whole."""
        started = time.perf_counter()
        program, flat, outputs = self.program(function, arguments, donate=donate)
        compiled = compiled_from(program.lower(*flat), started, effort=effort, one_thread=one_thread)
        return self._called_with_trees(compiled, outputs)

    @staticmethod
    def _called_with_trees(compiled: Compiled, outputs: ArrayTree) -> Compiled:
        structure = jax.tree.structure(outputs)
        scalars = [leaf.scalar for leaf in jax.tree.leaves(outputs)]

        def call(*arguments: ArrayTree) -> ArrayTree:
            # The answer has the tree that tracing found, since flat programs answer flat.
            found = compiled.call(*[_array_of(leaf) for leaf in jax.tree.leaves(arguments)])
            return jax.tree.unflatten(structure, map(DeviceSplit, found, scalars))

        def again(effort: Effort) -> Compiled:
            assert compiled.again is not None  # it has just been compiled
            return ManyDevices._called_with_trees(compiled.again(effort), outputs)

        return dataclasses.replace(compiled, call=call, outputs=outputs, again=again)

    def program(
        self, function: Function, arguments: Sequence[ArrayTree], *, donate: tuple[int, ...] = ()
    ) -> tuple[jax.stages.Wrapped, list[jax.ShapeDtypeStruct], ArrayTree]:
        """The function for all devices.

        Each device gets a share of what is divided (members, one axis) and the whole of everything else, and runs the
        same function on it. JAX divides arrays with at least one axis only, so a number per device travels as an array
        of one element: it is unpacked before the function and packed after it. Which outputs are such numbers only
        tracing tells, so the traced function writes it down.

        Returns:
            A jitted function of flat arguments, their shapes, and the tree of what it answers, as `DeviceSplit` shapes.
        """
        # Flat, since what is divided and what is whole is said leaf by leaf.
        leaves, structure = jax.tree.flatten(tuple(arguments))
        splits = [leaf if isinstance(leaf, DeviceSplit) else None for leaf in leaves]
        answer: list[Any] = []  # what only tracing tells, written down by the traced function

        def on_device(*leaves: jax.Array) -> Arrays:
            shares = [leaf[0] if split is not None and split.scalar else leaf for leaf, split in zip(leaves, splits)]  # noqa: B905
            found, tree = jax.tree.flatten(function(*jax.tree.unflatten(structure, shares)))
            answer[:] = [tree, [np.ndim(leaf) == 0 for leaf in found]]
            return tuple(jax.numpy.reshape(leaf, (1,)) if np.ndim(leaf) == 0 else leaf for leaf in found)

        divided, whole = self._divided.spec, self._shared.spec
        specs = tuple(whole if split is None else divided for split in splits)
        # No check of what varies between devices: they tell each other nothing, so there is nothing that could go
        # wrong.
        mapped = jax.shard_map(on_device, mesh=self.mesh, in_specs=specs, out_specs=divided, check_vma=False)
        counts = [len(jax.tree.leaves(argument)) for argument in arguments]
        starts = np.cumsum([0, *counts])
        donated = tuple(place for argument in donate for place in range(starts[argument], starts[argument + 1]))
        shapes = [
            _shape_of(_array_of(leaf), self._shared if split is None else self._divided)
            for leaf, split in zip(leaves, splits, strict=True)
        ]
        program = jax.jit(mapped, donate_argnums=donated)
        outputs = jax.eval_shape(program, *shapes)
        tree, scalars = answer
        return program, shapes, jax.tree.unflatten(tree, map(DeviceSplit, outputs, scalars))


def _array_of(leaf: Leaf | DeviceSplit) -> Leaf:
    return leaf.array if isinstance(leaf, DeviceSplit) else leaf


def _shape_of(array: Leaf, sharding: jax.sharding.NamedSharding) -> jax.ShapeDtypeStruct:
    return shape_of(np.shape(array), array.dtype, sharding)


@jax.jit
def _with_axes(tree: ArrayTree) -> ArrayTree:
    """Numbers as arrays of one entry: what has no axis cannot be divided along it."""
    return jax.tree.map(lambda leaf: leaf.reshape((1,)) if leaf.ndim == 0 else leaf, tree)


@functools.partial(jax.jit, static_argnums=1)
def _without_axes(leaves: list[jax.Array], scalars: tuple[bool, ...]) -> list[jax.Array]:
    return [leaf[0] if scalar else leaf for leaf, scalar in zip(leaves, scalars, strict=True)]


@functools.cache
def spread() -> OneDevice:
    """How members are divided between the devices of this process."""
    return OneDevice() if num_devices() == 1 else ManyDevices(mesh())


def num_slots(num_members: int, max_members: int, num_devices: int) -> int:
    """Slots for members, as many on each device: a power of two per device, so that few programs are compiled.

    Example:

    >>> num_slots(9, 64, 8), num_slots(3, 64, 8), num_slots(5, 6, 1)
    (16, 8, 6)
    """
    per_device, most = -(-num_members // num_devices), -(-max_members // num_devices)
    return num_devices * min(most, 1 << (per_device - 1).bit_length())
