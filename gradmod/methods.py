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

from ._theano import DimShuffle, normal
from .errors import check_count, describe, is_float_tensor
from .graphs import conform, walk
from .rules import GuidedBackprop


def gradient(score, x):
    """The gradient: dS/dx.

    Parameters
    ----------
    score : gradmod.score.Score
        What is explained.
    x : Variable
        Where.

    Returns
    -------
    Variable
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
    return conform(theano.grad(score(x).sum(), x), x.type)


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
    return x * gradient(score, x)


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
    axes = list(range(value.ndim)) + ['x'] * (x.ndim - value.ndim)
    return conform(value.dimshuffle(axes) * gradient(score, x), x.type)


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
    sigma : number
        The standard deviation of the noise; the paper recommends .1 to .2.
    seed : int
        For ``numpy.random.RandomState``, whose ``normal(size=(samples,) +
        x.shape[1:])`` is the noise before it is scaled.

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
    size = (samples,) + tuple(x.shape[i] for i in range(1, x.ndim))
    noise = normal(np.random.RandomState(seed), size, x.dtype)
    axes = tuple(range(1, x.ndim))
    scale = T.constant(np.asarray(sigma, x.dtype)) * (
        x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True))
    return _mean_gradient(score, x, lambda e: x + scale * e, noise, scale)


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
    baseline : number, numpy array or Variable
        b, which broadcasts against x: a number, or an array of the shape of
        one sample.

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
        If `steps` is no positive int.

    Notes
    -----
    The paper sums over the points k / steps, the right ends of the intervals;
    their midpoints approximate the integral better. The points are taken one
    after the other, so that memory does not grow with their number.

    Under a rule the attributions do not sum to anything in particular.

    References
    ----------
    .. [1] Sundararajan, Taly, Yan (2017): Axiomatic Attribution for Deep
       Networks. ICML.
    """
    check_count('steps', steps)
    if score.value.ndim != 1:
        raise TypeError('integrated_gradients: expected a target that gives one '
                        f'score for each sample, got {describe(score.value)}')
    b = T.as_tensor_variable(baseline)
    if b.ndim > x.ndim:
        raise TypeError('integrated_gradients: expected a baseline of at most '
                        f'{x.ndim} dimensions, got {describe(baseline)}')
    b = conform(T.zeros_like(x) + T.cast(b, x.dtype), x.type)
    fractions = T.constant(((np.arange(steps) + .5) / steps).astype(x.dtype))
    result = (x - b) * _mean_gradient(
        score, x, lambda fraction: b + fraction * (x - b), fractions, b)
    result.tag.completeness_error = (
        score(x) - score(b) - result.sum(axis=tuple(range(1, x.ndim))))
    return result


def gradcam(score, x, data_format=None, resize=True):
    """Grad-CAM: relu of the sum of a_c A_c over the channels c of a layer.

    A_c is channel c of the layer's output, and a_c the mean of dS/dA_c over
    its pixels [1]_.

    Parameters
    ----------
    score, x
        As for `gradient`. The score knows the layer that was asked for:
        ``layer=`` of the functions that compute maps. In the paper, the last
        convolution, after its rectifier.
    data_format : {'channels_first', 'channels_last'}, optional
        The axis of the channels in the layer's output, and in the input: the
        second or the last one. By default, what the convolution or pooling
        says that the layer comes from; the second one for a Lasagne network.
    resize : bool
        Whether to bring the map to the size of the input.

    Returns
    -------
    Variable
        The map, of the type of `x`: brought to the size of the input by linear
        interpolation, and the same in all channels. Without `resize`, the map
        as it is: of shape (samples,) and the layer's size.

    Raises
    ------
    TypeError
        If there is no layer with pixels; if it has another number of
        dimensions than the input, and its map is to be resized.
    ValueError
        If `data_format` cannot be told from the layer, or is not that of the
        convolution or pooling that it comes from; if it is not that of the
        input, and the map is to be resized.

    Notes
    -----
    The interpolation is (bi)linear between the centres of pixels and constant
    beyond the outermost ones, as in OpenCV's ``resize`` and in PyTorch's with
    ``align_corners=False``.

    References
    ----------
    .. [1] Selvaraju et al. (2017): Grad-CAM: Visual Explanations from Deep
       Networks via Gradient-based Localization. ICCV.
    """
    A = score.layer
    if not (is_float_tensor(A) and A.ndim > 2):
        raise TypeError('gradcam: expected a layer of shape (samples, channels, '
                        f'...), got {describe(A)}')
    if resize and A.ndim != x.ndim:
        raise TypeError(f'gradcam: a layer of {A.ndim} dimensions has no map of '
                        f'the size of an input of {x.ndim}: pass resize=False')
    data_format = _data_format(score, x, data_format, resize)
    channels = 1 if data_format == 'channels_first' else -1
    pixels = tuple(range(2, A.ndim) if channels == 1 else range(1, A.ndim - 1))
    weights = theano.grad(score(x).sum(), A).mean(axis=pixels, keepdims=True)
    cam = T.nnet.relu((weights * A).sum(axis=channels))
    if not resize:
        return cam
    for axis in pixels:
        # Sums over axis 1 and appends the new one: a cycle through all.
        cam = T.tensordot(cam, interpolation(
            A.shape[axis], x.shape[axis], x.dtype), axes=[[1], [1]])
    return conform(T.zeros_like(x) + T.shape_padaxis(cam, channels), x.type)


def guided_gradcam(score, x, guide=GuidedBackprop, data_format=None):
    """Guided Grad-CAM: Grad-CAM times guided backpropagation.

    Parameters
    ----------
    score, x, data_format
        As for `gradcam`.
    guide : callable
        The rule of the second factor.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    Raises
    ------
    TypeError, ValueError
        As for `gradcam`, and as `override_in` does for `guide`.

    Notes
    -----
    See `gradcam` for the source. Grad-CAM has the true gradient (unless the
    network is put under a rule), the other factor that of `guide`.
    """
    return gradcam(score, x, data_format) * gradient(score.under(guide), x)


METHODS = {f.__name__: f for f in (
    gradient, gradient_x_input, relevance, smoothgrad, integrated_gradients,
    gradcam, guided_gradcam)}


def _mean_gradient(score, x, point, sequence, *fixed):
    """The mean of the gradients at ``point(s)`` for each s of `sequence`."""
    def step(s, total, *_):
        return total + gradient(score, conform(point(s), x.type))
    totals, _ = theano.scan(
        step, sequences=[sequence], outputs_info=[T.zeros_like(x)],
        non_sequences=[x] + score.fixed + list(fixed))
    return conform(totals[-1] / T.cast(sequence.shape[0], x.dtype), x.type)


def _data_format(score, x, given, resize):
    """Where the channels of a layer are, by what it was computed with."""
    A, axes = score.layer, {'channels_first': 1,
                            'channels_last': score.layer.ndim - 1}

    def is_spatial(v):
        return v.owner and type(v.owner.op).__name__.startswith(
            ('AbstractConv', 'Pool'))

    def above(place):
        v, axis = place
        if v is x or not v.owner or isinstance(v.owner.op, T.Reshape):
            return []
        if isinstance(v.owner.op, DimShuffle):
            axis = v.owner.op.new_order[axis]
        inputs = v.owner.inputs[:1] if is_spatial(v) else v.owner.inputs
        return [(i, axis) for i in inputs
                if axis != 'x' and getattr(i, 'ndim', 0) == A.ndim]

    # From the layer up to x: every variable, and the axis of the channels.
    places = {name: list(walk([(A, axis)], above))
              for name, axis in axes.items()}
    found = next((name for name in axes if 1 in [
        axis for v, axis in places[name] if is_spatial(v)][:1]), None)
    if given is not None and found not in (None, given):
        raise ValueError(f'gradcam: the layer has {found}, not {given}')
    name = found or given or score.data_format
    if name not in axes:
        raise ValueError("gradcam: expected data_format='channels_first' or "
                         f"'channels_last' for this layer, got {given!r}")
    in_x = [axis for v, axis in places[name] if v is x]
    if resize and in_x and axes[name] not in in_x:
        raise ValueError(f'gradcam: the layer has {name}, the input has not: '
                         'pass resize=False')
    return name


def interpolation(old, new, dtype):
    """The matrix that interpolates `old` pixels linearly at `new` positions."""
    old, new = T.cast(old, dtype), T.cast(new, dtype)
    position = (T.arange(new, dtype=dtype) + .5) * (old / new) - .5
    position = T.clip(position, 0, old - 1)
    distance = abs(position.dimshuffle(0, 'x') - T.arange(old, dtype=dtype))
    return T.maximum(0, 1 - distance)
