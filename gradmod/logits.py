"""The logits that an output is the softmax or the sigmoid of."""
import theano.tensor as T
from theano import scalar

from ._theano import DimShuffle, LogSoftmax, Softmax, SoftmaxWithBias
from .graphs import conform, copy_node, scalar_op
from .matching import bindings, patterns


def _sum_exp(z):
    return T.exp(z).sum(axis=1, keepdims=True)


def _log_sum_exp(z):
    largest = z.max(axis=1, keepdims=True)
    return largest + T.log(_sum_exp(z - largest))


#: The ways in which people write them. A softmax is that of z - max(z), too.
SIGMOIDS = {
    'sigmoid(z)': T.nnet.sigmoid,
    'ultra_fast_sigmoid(z)': T.nnet.ultra_fast_sigmoid,
    'hard_sigmoid(z)': T.nnet.hard_sigmoid,
    '1 / (1 + exp(-z))': lambda z: 1 / (1 + T.exp(-z)),
    '(tanh(z / 2) + 1) / 2': lambda z: (T.tanh(z / 2) + 1) / 2,
    '0.5 * (tanh(0.5 * z) + 1)': lambda z: .5 * (T.tanh(.5 * z) + 1),
}
SOFTMAXES = {
    'exp(z) / sum(exp(z))': lambda z: T.exp(z) / _sum_exp(z),
    'z - log(sum(exp(z)))': lambda z: z - T.log(_sum_exp(z)),
    'z - (max + log(sum(exp(z - max))))': lambda z: z - _log_sum_exp(z),
}
SHAPES = T.Reshape, DimShuffle, T.Flatten, T.Rebroadcast
MONOTONE = scalar.Log, scalar.Exp, scalar.Clip, scalar.Cast


def logits_of(output):
    """The logits before the softmax or sigmoid that an output ends in.

    Parameters
    ----------
    output : Variable
        Of shape (samples, classes, ...).

    Returns
    -------
    Variable
        The logits, or `output` itself if none are found: if neither is its
        last operation but for reshapes, logarithms, exponentials and clips.
    """
    z = _before(output)
    return output if z is None else z


def _before(v):
    if v.owner is None:
        return None
    op, inputs = v.owner.op, v.owner.inputs
    if isinstance(op, (Softmax, LogSoftmax)):
        return inputs[0]
    if isinstance(op, SoftmaxWithBias):
        return inputs[0] + inputs[1]
    forms = {**SOFTMAXES, **SIGMOIDS}.items()
    for pattern, bound in bindings(patterns(forms, [v.type]), v):
        z = bound[pattern.x]
        while pattern.form in SOFTMAXES and _is_shifted(z):
            z = z.owner.inputs[0]
        return z
    if isinstance(op, SHAPES):
        z = _before(inputs[0])
        return z and copy_node(v.owner, [conform(z, inputs[0].type)]
                               + inputs[1:])[v.index]
    if isinstance(scalar_op(v), MONOTONE):
        return _before(inputs[0])


def _is_shifted(z):
    return (scalar_op(z) == scalar.sub
            and z.owner.inputs[1].broadcastable[1]
            and not z.owner.inputs[0].broadcastable[1])
