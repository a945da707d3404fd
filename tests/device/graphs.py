"""What a compiled function consists of."""
from collections import Counter

import numpy as np
import theano.scalar as scalar
import theano.tensor as T
from theano.gpuarray.elemwise import GpuElemwise
from theano.gpuarray.type import GpuArrayType

from gradmod._theano import Scan
from gradmod.device import is_transfer
from gradmod.op import GradientOverrideOp
from gradmod.rectifiers import guided_rectifier, rectifier

RULE_OPS = type(guided_rectifier.scalar_op), type(rectifier.scalar_op)


def nodes(f, loops=False):
    """All nodes of a compiled function, those inside of its loops too."""
    found = f.maker.fgraph.toposort()
    inner = [n.op.fn for n in found if loops and isinstance(n.op, Scan)]
    return found + [n for g in inner for n in nodes(g, loops)]


def transfers(f):
    return Counter(type(n.op).__name__ for n in nodes(f) if is_transfer(n.op))


def scalar_ops(op):
    """All scalar ops in an Elemwise or a fused one."""
    if isinstance(op, scalar.Composite):
        return [o for n in op.fgraph.apply_nodes for o in scalar_ops(n.op)]
    return [op]


def rule_nodes(f):
    """The nodes in which the scalar op of a rule runs."""
    return [n for n in nodes(f) if isinstance(n.op, T.Elemwise)
            and any(isinstance(o, RULE_OPS) for o in scalar_ops(n.op.scalar_op))]


def assert_free(f):
    """The rules run on the device, fused or alone, with no op of ours around."""
    assert rule_nodes(f)
    assert all(isinstance(n.op, GpuElemwise) for n in rule_nodes(f))
    assert not [n for n in nodes(f) if isinstance(n.op, GradientOverrideOp)]


def contexts(f):
    """The contexts of all GPU values in a function."""
    return {v.type.context_name for n in nodes(f) for v in n.inputs + n.outputs
            if isinstance(v.type, GpuArrayType)}


def difference(got, want):
    """The largest difference, relative to the largest value."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype
    return np.abs(got - want).max() / np.abs(want).max()


def assert_close(got, want):
    for a, b in zip(got, want):
        assert difference(a, b) < 1e-5
