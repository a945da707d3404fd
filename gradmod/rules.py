"""The rules: each a formula and a short method.

In the formulas z is the input of the nonlinearity f, g the gradient of the
cost with respect to f(z), and [c] is 1 where c holds and 0 elsewhere.

A parameter is a number, an array or a Theano variable; it is cast to the dtype
of g. Anything else is a TypeError when the rule is first applied.
"""
import numpy as np
import theano.tensor as T

from ._theano import Variable, equal_computations
from .base import ModifiedBackprop
from .rectifiers import guided_rectifier, rectifier


def identity(x):
    """x itself: for a rule that is a layer of its own."""
    return x


def like(g, value):
    """A parameter (numbers or a variable) in the dtype of `g`."""
    if not isinstance(value, Variable):
        value = np.asarray(value)  # of a number Theano would make float32
    return T.cast(value, g.dtype)


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
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.GuidedBackprop(T.nnet.relu)
    >>> z, w = T.vectors('zw')
    >>> saliency = theano.grad((relu(z) * w).sum(), z)
    >>> f = theano.function([z, w], saliency, allow_input_downcast=True)
    >>> print(f([-1, 2, 3], [5, -6, 7]))
    [0. 0. 7.]
    """

    def grad(self, inputs, out_grads, outputs=None):
        (z,), (g,) = inputs, out_grads
        if outputs and equal_computations(outputs, [T.nnet.relu(z)]):
            (z,) = outputs  # as positive as z, which need not be kept then
        return (guided_rectifier(g, z),)


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
    nonlinearity : callable, optional
        The identity by default: a layer of its own.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.ZeroBackprop(T.nnet.relu)
    >>> z = T.vector('z')
    >>> saliency = theano.grad((relu(z) + 3 * z).sum(), z)
    >>> f = theano.function([z], saliency, allow_input_downcast=True)
    >>> print(f([-1, 2, 3]))
    [3. 3. 3.]
    """

    def __init__(self, nonlinearity=identity):
        super().__init__(nonlinearity)

    def grad(self, inputs, out_grads):
        (z,) = inputs
        return (z.zeros_like(),)


class GuidedGradient(ModifiedBackprop):
    """Guided backpropagation for any nonlinearity: f'(z) g [g > 0].

    For units that are not closed for z <= 0 (leaky, ELU): their own
    derivative takes the place of the gate [z > 0] of `GuidedBackprop`. For
    ReLU both agree, except that at z = 0 Theano's derivative is 1 / 2.

    Parameters
    ----------
    nonlinearity : callable
        See `ModifiedBackprop`.

    Notes
    -----
    A generalisation of ours of Springenberg et al. (2015), who define the rule
    for ReLU. The caveats of `GuidedBackprop` hold.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> leaky = gradmod.GuidedGradient(lambda z: T.nnet.relu(z, .5))
    >>> z, w = T.vectors('zw')
    >>> saliency = theano.grad((leaky(z) * w).sum(), z)
    >>> f = theano.function([z, w], saliency, allow_input_downcast=True)
    >>> print(f([-1, -1, 2], [5, -6, 7]))
    [2.5 0.  7. ]
    """

    def grad(self, inputs, out_grads, true_grads):
        (g,), (t,) = out_grads, true_grads
        return (T.switch(g <= 0, t.zeros_like(), t),)


class BackpropThrough(ModifiedBackprop):
    """The gradient as if there were no nonlinearity: g.

    Parameters
    ----------
    nonlinearity : callable, optional
        The identity by default: a layer of its own.

    Notes
    -----
    With it in place of every nonlinearity, a network's gradient is the product
    of its weights: what the architecture would show of any input.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.BackpropThrough(T.nnet.relu)
    >>> z = T.vector('z')
    >>> f = theano.function([z], theano.grad((3 * relu(z)).sum(), z),
    ...                     allow_input_downcast=True)
    >>> print(f([-1, 2]))
    [3. 3.]
    """

    def __init__(self, nonlinearity=identity):
        super().__init__(nonlinearity)

    def grad(self, inputs, out_grads):
        return out_grads


class BetaSmooth(ModifiedBackprop):
    """The gradient of a softplus, for rectifiers: g sigmoid(beta z).

    Explanations change fast where rectifiers open and close: an image can be
    altered so that its map shows whatever one likes while the output stays.
    Those of softplus(z) = log(1 + exp(beta z)) / beta are smooth [1]_.

    Parameters
    ----------
    nonlinearity : callable
        The rectifier, or another nonlinearity that resembles it; see
        `ModifiedBackprop`.
    beta : float or scalar variable, optional
        The larger, the closer to the rectifier's own gradient, g [z > 0].

    Notes
    -----
    The paper replaces the rectifier itself, and with it the network's output
    and all activations. Here the forward pass is kept.

    The rule may be differentiated, unlike a rectifier's gradient: the second
    derivative is v g beta sigmoid(beta z) sigmoid(-beta z), for optimizing a
    map. A small beta shows a network that is not the one in use: compare maps
    for some values.

    References
    ----------
    .. [1] Dombrowski, Alber, Anders, Ackermann, Mueller, Kessel (2019):
       Explanations can be manipulated and geometry is to blame. NeurIPS.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.BetaSmooth(T.nnet.relu, beta=1)
    >>> z = T.vector('z')
    >>> f = theano.function([z], theano.grad((4 * relu(z)).sum(), z),
    ...                     allow_input_downcast=True)
    >>> print(f([-1, 0, 1]).round(2))
    [1.08 2.   2.92]
    """

    def __init__(self, nonlinearity, beta=10.):
        super().__init__(nonlinearity)
        self.beta = beta

    def grad(self, inputs, out_grads):
        (z,), (g,) = inputs, out_grads
        return (g * T.nnet.sigmoid(like(g, self.beta) * z),)


class RectGrad(ModifiedBackprop):
    """Rectified gradient: g [f(z) g > tau].

    A unit passes its gradient down if its contribution, activation times
    gradient, exceeds a threshold [1]_.

    Parameters
    ----------
    nonlinearity : callable
        See `ModifiedBackprop`.
    threshold : float or scalar variable, optional
        tau.
    quantile : float or scalar variable in [0, 1), optional
        Take for tau this quantile of f(z) g among the units of a layer, for
        each sample (the first axis) by itself, instead of `threshold`. The
        paper uses .98 and more.

    Notes
    -----
    The quantile is the value at position ceil(q n) - 1 of the n sorted
    contributions (the first for q = 0); no interpolation.

    References
    ----------
    .. [1] Kim, Seo, Jeon, Koo, Choe, Jeon (2019): Why are Saliency Maps Noisy?
       Cause of and Solution to Noisy Saliency Maps. ICCV workshop.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> relu = gradmod.RectGrad(T.nnet.relu, threshold=10)
    >>> z, w = T.vectors('zw')
    >>> saliency = theano.grad((relu(z) * w).sum(), z)
    >>> f = theano.function([z, w], saliency, allow_input_downcast=True)
    >>> print(f([2, 2, -3], [4, 6, -7]))
    [0. 6. 0.]
    """

    def __init__(self, nonlinearity, threshold=0., quantile=None):
        super().__init__(nonlinearity)
        self.threshold = threshold
        self.quantile = quantile

    def grad(self, inputs, out_grads, outputs):
        (g,), (y,) = out_grads, outputs
        contribution = y * g
        threshold = like(g, self.threshold)
        if self.quantile is not None:
            samples = contribution if g.ndim > 1 else (
                T.shape_padleft(contribution))
            ordered = T.sort(samples.flatten(2), axis=1)
            # q n, of a q that was rounded up
            n = ordered.shape[1] * (1 - np.finfo(g.dtype).eps)
            position = T.ceil(like(g, self.quantile) * n).astype('int64') - 1
            threshold = ordered[:, T.maximum(position, 0)]
            threshold = (T.shape_padright(threshold, g.ndim - 1)
                         if g.ndim > 1 else threshold[0])
        return (T.switch(contribution > threshold, g, g.zeros_like()),)


# Training

class StraightThrough(ModifiedBackprop):
    """The straight-through estimator: g, or g [abs(z) <= bound].

    Trains through a function whose derivative is 0 or does not exist: a sign,
    a threshold, a rounding [1]_. With ``bound=1`` the gradient is cancelled
    where the unit is saturated, as for binarized networks [2]_.

    Parameters
    ----------
    nonlinearity : callable, optional
        Such as ``theano.tensor.sgn``; the identity by default. A result that
        is not of a float dtype has to be cast to one.
    bound : float or scalar variable, optional
        No gradient passes where abs(z) exceeds it.

    References
    ----------
    .. [1] Bengio, Leonard, Courville (2013): Estimating or Propagating
       Gradients Through Stochastic Neurons for Conditional Computation.
    .. [2] Hubara, Courbariaux, Soudry, El-Yaniv, Bengio (2016): Binarized
       Neural Networks. NIPS.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> sign = gradmod.StraightThrough(T.sgn, bound=1)
    >>> z = T.vector('z')
    >>> f = theano.function([z], theano.grad((3 * sign(z)).sum(), z),
    ...                     allow_input_downcast=True)
    >>> print(f([-2, -.5, 1]))
    [0. 3. 3.]
    """

    def __init__(self, nonlinearity=identity, bound=None):
        super().__init__(nonlinearity)
        self.bound = bound

    def grad(self, inputs, out_grads):
        (z,), (g,) = inputs, out_grads
        if self.bound is None:
            return (g,)
        return (T.switch(abs(z) <= like(z, self.bound), g, g.zeros_like()),)


class GradientReversal(ModifiedBackprop):
    """The gradient reversal layer: -factor f'(z) g.

    Between a feature extractor and a classifier of domains it makes the
    features such that the domains cannot be told apart [1]_.

    Parameters
    ----------
    nonlinearity : callable, optional
        The identity by default: a layer of its own.
    factor : float or scalar variable
        The paper's lambda, which grows from 0 to 1 during training: give a
        shared variable and set it.

    References
    ----------
    .. [1] Ganin, Lempitsky (2015): Unsupervised Domain Adaptation by
       Backpropagation. ICML.

    Examples
    --------
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> reverse = gradmod.GradientReversal(factor=.5)
    >>> z = T.vector('z')
    >>> f = theano.function([z], theano.grad((3 * reverse(z)).sum(), z),
    ...                     allow_input_downcast=True)
    >>> print(f([-2, 1]))
    [-1.5 -1.5]
    """

    def __init__(self, nonlinearity=identity, factor=1.):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads, true_grads):
        (t,) = true_grads
        return (-t * like(t, self.factor),)
