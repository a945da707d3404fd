"""The rules: each a formula and a short method.

In the formulas z is the input of the nonlinearity f, g the gradient of the
cost with respect to f(z), and [c] is 1 where c holds and 0 elsewhere.
"""
import theano.scalar as scalar
import theano.tensor as T

from .base import ModifiedBackprop


class GuidedRectifier(scalar.ScalarOp):
    """g [z > 0] [g > 0] of one z and one g."""

    nin = 2

    def __init__(self, output_types_preference=None, name=None):
        super().__init__(output_types_preference or scalar.transfer_type(1), name)

    def impl(self, z, g):
        return g if z > 0 and not g <= 0 else 0.

    def c_code(self, node, name, inputs, outputs, sub):
        z, g = inputs
        (out,) = outputs
        return '%s = ((%s > 0) & !(%s <= 0)) ? %s : 0;' % (out, z, g, g)

    def c_code_cache_version(self):
        return (1,)

    def grad(self, inputs, output_grads):
        z, g = inputs
        (h,) = output_grads
        zero = h.zeros_like()
        open_ = scalar.and_(z > z.zeros_like(), g > g.zeros_like())
        return [z.zeros_like(), scalar.switch(open_, h, zero)]


class Rectifier(scalar.ScalarOp):
    """g [g > 0] of one g."""

    nin = 1

    def __init__(self, output_types_preference=None, name=None):
        super().__init__(output_types_preference or scalar.same_out, name)

    def impl(self, g):
        return 0. if g <= 0 else g

    def c_code(self, node, name, inputs, outputs, sub):
        (g,), (out,) = inputs, outputs
        return '%s = 0 > %s ? 0 : %s;' % (out, g, g)

    def c_code_cache_version(self):
        return (1,)

    def grad(self, inputs, output_grads):
        (g,), (h,) = inputs, output_grads
        return [scalar.switch(g > g.zeros_like(), h, h.zeros_like())]


guided_rectifier = T.Elemwise(GuidedRectifier())
rectifier = T.Elemwise(Rectifier())


class GuidedBackprop(ModifiedBackprop):
    """Guided backpropagation: g [z > 0] [g > 0].

    A unit passes a gradient down only where it was active in the forward pass
    and where the gradient itself is positive [1]_.

    Parameters
    ----------
    nonlinearity : callable
        The rectifier, or another nonlinearity of one input and as many
        outputs; see `ModifiedBackprop`.

    Notes
    -----
    The derivative of the nonlinearity is not used. For ReLU this is the
    paper's formula: the gradient, g [z > 0], with its negative values removed.
    A leaky unit passes nothing where z <= 0. At z = 0 exactly nothing passes,
    while the gradient of ``theano.tensor.nnet.relu`` is g / 2 there.

    A gradient that is NaN stays NaN where z > 0. An infinite one gives 0, not
    NaN, where the unit was closed.

    The result partly recovers the image and hardly depends on the class or on
    the weights of the later layers [2]_ [3]_ [4]_: it shows what the first
    layers respond to rather than why the network decided as it did.

    References
    ----------
    .. [1] Springenberg, Dosovitskiy, Brox, Riedmiller (2015): Striving for
       Simplicity: The All Convolutional Net. ICLR workshop.
    .. [2] Nie, Zhang, Patel (2018): A Theoretical Explanation for Perplexing
       Behaviors of Backpropagation-based Visualizations. ICML.
    .. [3] Adebayo et al. (2018): Sanity Checks for Saliency Maps. NeurIPS.
    .. [4] Sixt, Granz, Landgraf (2020): When Explanations Lie: Why Many
       Modified BP Attributions Fail. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.GuidedBackprop(T.nnet.relu)
    >>> z, w = T.vectors('zw')
    >>> saliency = theano.grad((relu(z) * w).sum(), z)
    >>> f = theano.function([z, w], saliency, allow_input_downcast=True)
    >>> print(f([-1, 2, 3], [5, -6, 7]))
    [0. 0. 7.]
    """

    def grad(self, inputs, out_grads):
        (z,), (g,) = inputs, out_grads
        return (guided_rectifier(z, g),)


class DeconvNet(ModifiedBackprop):
    """The backward pass of a deconvolutional network: g [g > 0].

    A unit passes a gradient down where the gradient is positive, whether it
    was active in the forward pass or not [1]_.

    Parameters
    ----------
    nonlinearity : callable
        The rectifier, or another nonlinearity of one input and as many
        outputs; see `ModifiedBackprop`.

    Notes
    -----
    The paper rectifies the signal that goes down, with the rectifier of the
    forward pass. Here it is always ReLU, whatever `nonlinearity` is; to apply
    a leaky nonlinearity itself to g, as a recipe for Lasagne does, write a
    rule whose `grad` returns ``(self.nonlinearity(g),)``. For ReLU both are
    the same.

    The paper inverts max-pooling with recorded switches. Theano's gradient of
    max-pooling does that, except that on the CPU all inputs tied for the
    maximum get the gradient: over a window of zeros all of it.

    A gradient that is NaN stays NaN.

    DeconvNet maps hardly depend on the class or the weights of the later
    layers; see `GuidedBackprop` for the references.

    References
    ----------
    .. [1] Zeiler, Fergus (2014): Visualizing and Understanding Convolutional
       Networks. ECCV. (arXiv 2013.)

    Examples
    --------
    >>> import numpy as np
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.DeconvNet(T.nnet.relu)
    >>> z, w = T.vectors('zw')
    >>> saliency = theano.grad((relu(z) * w).sum(), z)
    >>> f = theano.function([z, w], saliency, allow_input_downcast=True)
    >>> print(f([-1, 2, 3], [5, -6, 7]))
    [5. 0. 7.]
    """

    def grad(self, inputs, out_grads):
        (g,) = out_grads
        return (rectifier(g),)


class ZeroBackprop(ModifiedBackprop):
    """No gradient: 0 everywhere.

    What goes through the nonlinearity contributes nothing to a gradient. The
    path stays connected: ``theano.grad`` does not raise
    ``DisconnectedInputError`` when it is the only one.

    Parameters
    ----------
    nonlinearity : callable
        See `ModifiedBackprop`.

    Examples
    --------
    >>> import numpy as np
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.ZeroBackprop(T.nnet.relu)
    >>> z = T.vector('z')
    >>> saliency = theano.grad((relu(z) + 3 * z).sum(), z)
    >>> f = theano.function([z], saliency, allow_input_downcast=True)
    >>> print(f([-1, 2, 3]))
    [3. 3. 3.]
    """

    def grad(self, inputs, out_grads):
        (z,) = inputs
        return (z.zeros_like(),)
