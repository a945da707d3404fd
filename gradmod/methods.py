"""The methods: each a formula, from a score and an input to a map.

In the formulas S(x) is the score of one sample x, by default the logit of its
maximal class, and dS/dx is the gradient that Theano computes: the true one, or
that of the rule which the network is under. A method of your own is a function
like these, ``method(score, x, **options)``:

>>> import gradmod
>>> import numpy as np
>>> import theano.tensor as T
>>> def strongest(score, x):
...     return abs(gradmod.methods.gradient(score, x)).max(axis=1)
>>> x = T.matrix('x', dtype='float32')
>>> maps = gradmod.saliency_map(x * np.float32([3, -4]), target=1,
...                             method=strongest, input_var=x)
>>> print(maps.eval({x: np.float32([[1, 2]])}))
[4.]
"""
import numpy as np
import theano
import theano.tensor as T

from ._theano import Variable, normal
from .errors import check_count, describe
from .graphs import conform


def gradient(score, x):
    """The gradient: dS/dx.

    Parameters
    ----------
    score : gradmod.score.Score
        What is explained.
    x : Variable or list of Variable
        Where; a list where there are several inputs.

    Returns
    -------
    Variable or list of Variable
        The map, of the type of `x`.

    Notes
    -----
    That of [1]_, with its sign and for each channel (the paper shows the
    largest absolute value over the channels). Under a rule it is guided
    backpropagation or the DeconvNet.

    References
    ----------
    .. [1] Simonyan, Vedaldi, Zisserman (2013): Deep Inside Convolutional
       Networks. arXiv:1312.6034.
    """
    return each(lambda v, g: conform(g, v.type), x,
                theano.grad(score(x).sum(), x))


def gradient_x_input(score, x):
    """The gradient times the input: x dS/dx.

    Parameters
    ----------
    score, x
        As for `gradient`.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    References
    ----------
    .. [1] Shrikumar, Greenside, Shcherbina, Kundaje (2016): Not Just a Black
       Box. arXiv:1605.01713.
    """
    return each(lambda v, g: v * g, x, gradient(score, x))


def relevance(score, x):
    """The relevance: the score times its gradient, S(x) dS/dx.

    Under a composite of `gradmod.lrp` what flows is relevance rather than a
    gradient, and what starts at the output is the score.

    Parameters
    ----------
    score, x
        As for `gradient`; the network under a composite of `gradmod.lrp`.

    Returns
    -------
    Variable
        The map, of the type of `x`. Where the rules conserve relevance it sums
        to the score, but for what biases and stabilizers take.

    References
    ----------
    .. [1] Bach et al. (2015): On Pixel-Wise Explanations for Non-Linear
       Classifier Decisions by Layer-Wise Relevance Propagation. PLoS ONE.
    """
    value = score(x)

    def relevance(v, g):
        axes = list(range(value.ndim)) + ['x'] * (v.ndim - value.ndim)
        return conform(value.dimshuffle(axes) * g, v.type)
    return each(relevance, x, gradient(score, x))


def smoothgrad(score, x, samples=50, sigma=.15, seed=0):
    """SmoothGrad: the mean of dS/dx at x + e_1, ..., x + e_samples.

    The e_k are normal noise of mean 0 and standard deviation
    sigma (max x - min x), for the maximum and minimum of each sample [1]_.

    Parameters
    ----------
    score, x
        As for `gradient`.
    samples : int
        How many noisy copies.
    sigma : number, or list of number
        The standard deviation of the noise; the paper recommends .1 to .2. Of
        several inputs each may have its own.
    seed : int
        For ``numpy.random.RandomState``, whose ``normal(size=(samples,) +
        x.shape[1:])`` is the noise before it is scaled. That of the i-th input
        after the first has the seed ``[seed, i]``.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    Raises
    ------
    ValueError
        If `samples` is no positive int.

    Notes
    -----
    The class is that of x itself, not that of a noisy copy. All samples get
    the same noise, scaled, and so does each call: the map of an image depends
    on nothing but the image, wherever it is in whatever batch. The copies are
    taken one after the other (``theano.scan``), so that memory does not grow
    with their number.

    References
    ----------
    .. [1] Smilkov, Thorat, Kim, Viegas, Wattenberg (2017): SmoothGrad: Removing
       Noise by Adding Noise. arXiv:1706.03825.
    """
    check_count('samples', samples)
    noise = [
        normal(np.random.RandomState([seed, i] if i else seed), (samples,) + tuple(
            v.shape[axis] for axis in range(1, v.ndim)), v.dtype)
        for i, v in enumerate(as_list(x))]

    def scale(v, sigma):
        axes = tuple(range(1, v.ndim))
        return T.constant(np.asarray(sigma, v.dtype)) * (
            v.max(axis=axes, keepdims=True) - v.min(axis=axes, keepdims=True))
    scales = each(scale, x, _as(x, _for_each(sigma, x)))
    return _mean_gradient(score, x, lambda *e: each(
        lambda v, scale, e: v + scale * e, x, scales, _as(x, e)), noise, scales)


def integrated_gradients(score, x, steps=50, baseline=0):
    """Integrated gradients: (x - b) times the mean of dS/dx from b to x.

    The mean is that over the points b + (k - 1/2) / steps (x - b), for k from
    1 to `steps` [1]_.

    Parameters
    ----------
    score, x
        As for `gradient`.
    steps : int
        How many points.
    baseline : number, numpy array or Variable, or list of these
        b, which broadcasts against x: a number, or an array of the shape of
        one sample; an array with an axis before these has several baselines,
        and the map is the mean of theirs. A variable may be made from x, such
        as a blurred one. Of several inputs each may have its own, in a list.

    Returns
    -------
    Variable
        The map, of the type of `x`. Its ``tag.completeness_error`` is a vector
        of one number for each sample, S(x) - S(b) - the sum of the map: 0 but
        for the error of the approximation, if the gradient is the true one.

    Raises
    ------
    TypeError
        If the target gives one score for the whole batch, or the baseline has
        more dimensions than x.
    ValueError
        If `steps` is no positive int; if there are baselines for some of
        several inputs, or not as many for each.

    Notes
    -----
    The paper sums over the points k / steps, the right ends of the intervals;
    their midpoints approximate the integral better. The points are taken one
    after the other, so that memory does not grow with their number.

    With respect to a layer, b and the path are those of that layer's output,
    not of the input: the map sums to S(x) - S(b) for each of its samples. This
    is Captum's LayerIntegratedGradients where b is the layer's output for a
    baseline of the input.

    Under a rule the attributions do not sum to anything in particular.

    References
    ----------
    .. [1] Sundararajan, Taly, Yan (2017): Axiomatic Attribution for Deep
       Networks. ICML.
    """
    check_count('steps', steps)

    def attributions(b):
        fractions = ((np.arange(steps) + .5) / steps).astype(as_list(x)[0].dtype)
        means = _mean_gradient(score, x, lambda fraction: each(
            lambda v, b: b + T.cast(fraction, v.dtype) * (v - b), x, b),
            [T.constant(fractions)], b)
        return each(lambda v, b, mean: (v - b) * mean, x, b, means)
    return from_baseline(attributions, score, x, baseline)


def from_baseline(attributions, score, x, baseline):
    """Attributions of S(x) - S(b) for a baseline b, or the mean of several.

    Parameters
    ----------
    attributions : callable
        From b, of the type of `x`, to a map.
    score, x
        As for `gradient`.
    baseline : number, numpy array or Variable, or a list of these
        See `integrated_gradients`.

    Returns
    -------
    Variable
        The map, with a ``tag.completeness_error``.
    """
    if score.value.ndim != 1:
        raise TypeError('expected a target that gives one score for each sample, '
                        f'got {describe(score.value)}')
    baselines = _for_each(baseline, x)
    for v, b in zip(as_list(x), baselines):
        if np.ndim(b) > v.ndim:
            raise TypeError(f'expected a baseline of at most {v.ndim} '
                            f'dimensions, got {describe(b)}')

    def maps_and_error(*b):
        b = each(lambda v, b: conform(T.zeros_like(v) + T.cast(b, v.dtype),
                                      v.type), x, _as(x, b))
        maps = as_list(attributions(b))
        sums = [m.sum(axis=tuple(range(1, m.ndim))) for m in maps]
        return maps + [score(x) - score(b) - sum(sums)]
    several = {i: np.asarray(b, v.dtype)
               for i, (v, b) in enumerate(zip(as_list(x), baselines))
               if not isinstance(b, Variable) and np.ndim(b) == v.ndim}
    if not several:
        *maps, error = maps_and_error(*baselines)
    elif len({len(b) for b in several.values()}) > 1:
        raise ValueError('expected as many baselines for each input, got '
                         f'{[len(b) for b in several.values()]}')
    else:
        outputs, _ = theano.scan(
            lambda *args: maps_and_error(*{
                **dict(enumerate(baselines)), **dict(zip(several, args))}.values()),
            sequences=[T.constant(b) for b in several.values()],
            non_sequences=as_list(x) + score.fixed)
        *maps, error = [v.mean(axis=0) for v in outputs]
    for v in maps:
        v.tag.completeness_error = error
    return _as(x, maps)


def as_list(value):
    """What a list has; what is none, as the only one; [] for None."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [] if value is None else [value]


def each(function, *values):
    """A function of what is one; or of each of several, in lists."""
    if isinstance(values[0], list):
        return [function(*v) for v in zip(*values)]
    return function(*values)


def _as(x, values):
    """As many values as x has variables: a list where x is one."""
    return list(values) if isinstance(x, list) else values[0]


def _for_each(option, x):
    """A list of an option for each input: one value for all, or a list."""
    if not isinstance(x, list):
        return [option]
    if not isinstance(option, (list, tuple)):
        return [option] * len(x)
    if len(option) != len(x):
        raise ValueError(f'expected one value, or one for each of {len(x)} '
                         f'inputs, got {len(option)}')
    return list(option)


def _mean_gradient(score, x, point, sequences, fixed):
    """The mean of the gradients at ``point(*s)`` for each s of `sequences`."""
    def step(*args):
        at = each(lambda v, p: conform(p, v.type), x,
                  point(*args[:len(sequences)]))
        return [total + g for total, g in zip(
            args[len(sequences):], as_list(gradient(score, at)))]
    totals, _ = theano.scan(
        step, sequences=sequences,
        outputs_info=[T.zeros_like(v) for v in as_list(x)],
        non_sequences=as_list(x) + score.fixed + as_list(fixed))
    count = sequences[0].shape[0]
    return each(lambda v, total: conform(
        total[-1] / T.cast(count, v.dtype), v.type), x, _as(x, as_list(totals)))
