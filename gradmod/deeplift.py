"""DeepLIFT: differences from a reference in the place of derivatives."""
import theano
import theano.tensor as T
from theano import scalar

from ._theano import Elemwise, Scan
from .base import ModifiedBackprop
from .errors import is_float_tensor
from .graphs import conform, graft, nodes_below
from .methods import as_list, each, from_baseline, gradient
from .op import GradientOverrideOp
from .rules import like

LINEAR = scalar.Add, scalar.Sub, scalar.Neg, scalar.Cast, scalar.Identity


def deeplift(score, x, baseline=0):
    """DeepLIFT, rescale rule: (x - b) times the multipliers of S.

    Multipliers follow the chain rule as derivatives do, but that of a
    nonlinearity f is (f(z) - f(z0)) / (z - z0), for z0 its input where the
    network has the baseline b [1]_.

    Parameters
    ----------
    score, x
        As for `gradmod.methods.gradient`.
    baseline : number, numpy array or Variable, or list of these
        b; as for `gradmod.methods.integrated_gradients`. The map of several
        baselines is the mean of theirs.

    Returns
    -------
    Variable
        The map, of the type of `x`. Its ``tag.completeness_error`` is S(x) -
        S(b) - the sum of the map, for each sample: 0 but for rounding, if the
        network consists of linear operations, elementwise functions of one
        variable and maxima.

    Raises
    ------
    TypeError
        As for `integrated_gradients`.
    ValueError
        If the network is under a rule, or has a loop (``theano.scan``).

    Notes
    -----
    The formulation of the rescale rule as a modified gradient is that of
    Ancona et al. (2018). Where abs(z - z0) is not above 1e-6, the multiplier
    is the derivative. A maximum over several values (max-pooling) passes on
    what it rises by, max(y, y0) - y0, to where x has it, and what it falls by,
    y - max(y, y0), to where b has it, as SHAP and Captum do; among ties in
    equal parts. Products of two values that both depend on x, and quotients,
    keep their derivatives, as does a softmax within the network: the
    completeness error shows it. A function as the target has rules, too.

    It takes a forward pass of the baseline besides those of the gradient. With
    a baseline of 0 and no biases, ReLU networks get gradient times input.

    References
    ----------
    .. [1] Shrikumar, Greenside, Kundaje (2017): Learning Important Features
       Through Propagating Activation Differences. ICML.
    """
    if score.rule is not None:
        raise ValueError('deeplift has a rule of its own for each nonlinearity: '
                         'pass rule=None')

    def attributions(b):
        points = dict(zip(as_list(x), as_list(b)))
        points.update((v, v) for v in as_list(b) + score.fixed)
        value = _with_rules(score.value, as_list(x), points, score.fixed)
        return each(lambda v, b, g: (v - b) * g, x, b,
                    gradient(lambda _: value, x))
    return from_baseline(attributions, score, x, baseline)


class Rescale(ModifiedBackprop):
    """The rule of a nonlinearity: g (f(z) - f(z0)) / (z - z0).

    Parameters
    ----------
    nonlinearity : callable
    points : dict of Variable to Variable
        From x to b. Filled with what is met on the way to z.
    """

    tolerance = 1e-6

    def __init__(self, nonlinearity, points):
        super().__init__(nonlinearity)
        self.points = points

    def __call__(self, z):
        (self.z0,) = graft([z], self.points)
        self.points[self.z0] = self.z0
        return super().__call__(z)

    def grad(self, inputs, out_grads, outputs, true_grads):
        (z,), (g,), (y,), (t,) = inputs, out_grads, outputs, true_grads
        dz = z - self.z0
        small = abs(dz) <= like(z, self.tolerance)
        change = self.change(z, y, self.nonlinearity(self.z0), g)
        return (T.switch(small, t, change / T.switch(small, T.ones_like(dz), dz)),)

    def change(self, z, y, y0, g):
        """g (f(z) - f(z0)), at the places of z."""
        return g * (y - y0)


class RescaleMaximum(Rescale):
    """The rule of a maximum over several values."""

    def change(self, z, y, y0, g):
        top = T.maximum(y, y0)
        return self.spread(z, g * (top - y0)) + self.spread(self.z0, g * (y - top))

    def spread(self, z, g):
        """What is at the maxima of z, to where these are, in equal parts."""
        y = self.nonlinearity(z)
        ones = T.ones_like(y)
        ties = theano.grad(theano.grad(None, z, known_grads={y: ones}).sum(), ones)
        return theano.grad(None, z, known_grads={y: g / ties})


def _with_rules(z, x, points, fixed):
    """z with a rule wherever it is no linear function of x."""
    # What depends on x, and what it is an elementwise function of: its root.
    root, curved = {v: v for v in x}, set()
    order = list(nodes_below(x, [z], fixed))
    for node in order:
        used = [i for i, v in enumerate(node.inputs) if v in root]
        root.update(zip(node.outputs, node.outputs))
        r, *others = {root[node.inputs[i]] for i in used}
        v = node.outputs[0]
        if (isinstance(node.op, Elemwise) and not others
                and r.broadcastable == v.broadcastable):
            root[v] = r
            if (curved.intersection(node.inputs)
                    or not _is_linear(node.op.scalar_op, used)):
                curved.add(v)
    curved &= {v for node in order for v in node.inputs
               if v in root and root[node.outputs[0]] is not root[v]} | {z}
    new = {v: v for v in x + fixed}
    for node in order:
        if isinstance(node.op, (Scan, GradientOverrideOp)):
            raise ValueError('deeplift: the network has a loop (theano.scan) or '
                             f'another rule, {node.op}, to be undone first')
        v, rule = node.outputs[0], Rescale
        r = root[v]
        if isinstance(node.op, T.MaxAndArgmax) or (
                type(node.op).__name__ == 'Pool' and node.op.mode == 'max'):
            rule, r = RescaleMaximum, node.inputs[0]
        elif v not in curved:
            continue
        if is_float_tensor(v):
            def nonlinearity(z, v=v, r=r):
                return graft([v], {r: z})[0]
            (at,) = graft([r], new)
            new[v] = conform(rule(nonlinearity, points)(at), v.type)
    return graft([z], new)[0]


def _is_linear(op, used):
    """Whether a scalar op is linear in those of its inputs."""
    return (isinstance(op, LINEAR) or isinstance(op, scalar.Mul) and len(used) < 2
            or isinstance(op, scalar.TrueDiv) and used == [0])
