"""Class activation maps: what the channels of a layer say, weighted.

With A_c channel c of the layer's output, each map is relu(sum over c of w_c
A_c), for weights w_c of its own.
"""
import theano
import theano.tensor as T

from ._theano import DimShuffle
from .errors import describe, is_float_tensor
from .graphs import conform, nodes_below, walk
from .methods import gradient
from .rules import GuidedBackprop


def gradcam(score, x, data_format=None, resize=True):
    """Grad-CAM: w_c is the mean of dS/dA_c over the pixels [1]_.

    Parameters
    ----------
    score, x
        As for `gradmod.methods.gradient`. The score knows the layer that was
        asked for: ``layer=`` of the functions that compute maps. In the paper,
        the last convolution, after its rectifier.
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
    return _cam(score, x, data_format, resize, lambda A, pixels: _gradient(
        score, x).mean(axis=pixels, keepdims=True))


def gradcam_plus_plus(score, x, data_format=None, resize=True):
    """Grad-CAM++: w_c is the sum of a relu(g) over the pixels, for g = dS/dA_c.

    a = g^2 / (2 g^2 + g^3 sum A_c), with the sum over the pixels [1]_: a relu(g)
    is computed as relu(g) / (2 + relu(g) sum A_c), and is 0 where that has no
    value. Of several objects of a class, Grad-CAM weights the large ones more;
    here each pixel counts alike.

    Parameters
    ----------
    score, x, data_format, resize
        As for `gradcam`, with the same result and the same errors.

    Notes
    -----
    The paper's derivatives are those of exp(S), which scales each map by
    exp(S); that factor is left out here, as in other implementations. The
    denominator may come close to 0 where a channel's sum is negative, as it may
    be before a rectifier.

    References
    ----------
    .. [1] Chattopadhay, Sarkar, Howlader, Balasubramanian (2018): Grad-CAM++.
       WACV. arXiv:1710.11063.
    """
    def weights(A, pixels):
        r = T.nnet.relu(_gradient(score, x))
        below = 2 + r * A.sum(axis=pixels, keepdims=True)
        return T.switch(T.eq(below, 0), 0, r / below).sum(
            axis=pixels, keepdims=True)
    return _cam(score, x, data_format, resize, weights)


def layercam(score, x, data_format=None, resize=True):
    """LayerCAM: w_c is relu(dS/dA_c), at each pixel its own [1]_.

    Finer than Grad-CAM, and of use for early layers, too.

    Parameters
    ----------
    score, x, data_format, resize
        As for `gradcam`, with the same result and the same errors.

    References
    ----------
    .. [1] Jiang, Zhang, Hou, Cheng, Wei (2021): LayerCAM: Exploring
       Hierarchical Class Activation Maps for Localization. IEEE Transactions
       on Image Processing 30.
    """
    return _cam(score, x, data_format, resize,
                lambda A, pixels: T.nnet.relu(_gradient(score, x)))


def scorecam(score, x, data_format=None, resize=True):
    """Score-CAM: w is the softmax over c of S(x M_c), without any gradient.

    M_c is A_c at the size of the input, brought to 0 to 1 for each sample: the
    score of what channel c lets one see of it [1]_.

    Parameters
    ----------
    score, x, data_format, resize
        As for `gradcam`, with the same result and the same errors.

    Notes
    -----
    A forward pass for each channel of the layer, one after the other: for a
    layer of 512 channels, as slow as 512 predictions. The paper subtracts the
    score of a black image, which the softmax does not see. A channel that is
    constant masks all.

    References
    ----------
    .. [1] Wang et al. (2020): Score-CAM: Score-Weighted Visual Explanations for
       Convolutional Neural Networks. CVPR Workshops. arXiv:1910.01279.
    """
    def weights(A, pixels):
        (channels,) = {*range(1, A.ndim)} - {*pixels}
        low, high = [f(A, axis=pixels, keepdims=True) for f in (T.min, T.max)]
        masks = (A - low) / T.switch(T.eq(high, low), T.ones_like(low),
                                     high - low)

        def step(mask, *_):
            mask = T.shape_padaxis(_resized(mask, x, pixels), channels)
            return score(conform(x * mask, x.type))
        scores, _ = theano.scan(
            step, sequences=[masks.dimshuffle(channels, 0, *pixels)],
            non_sequences=[x] + score.fixed)
        return T.nnet.softmax(scores.T).dimshuffle(
            0, *[1 if axis == channels else 'x' for axis in range(1, A.ndim)])
    return _cam(score, x, data_format, resize, weights, alike=True)


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


METHODS = gradcam, gradcam_plus_plus, layercam, scorecam, guided_gradcam


def _cam(score, x, data_format, resize, weights, alike=False):
    """A map by its weights; layer and input have to be alike to compare them."""
    A = score.layer
    if not (is_float_tensor(A) and A.ndim > 2):
        raise TypeError('expected a layer of shape (samples, channels, ...), as '
                        f'after a convolution, got {describe(A)}: say layer')
    if isinstance(x, list):
        raise TypeError('expected one input, got several: say which by wrt')
    alike |= resize
    if alike and A.ndim != x.ndim:
        raise TypeError(f'a layer of {A.ndim} dimensions has no map of the size '
                        f'of an input of {x.ndim}: pass resize=False')
    channels = _axis_of_channels(score, x, data_format, alike)
    pixels = [axis for axis in range(1, A.ndim) if axis != channels]
    cam = T.nnet.relu((weights(A, pixels) * A).sum(axis=channels))
    if not resize:
        return cam
    cam = T.shape_padaxis(_resized(cam, x, pixels), channels)
    return conform(T.zeros_like(x) + cam, x.type)


def _gradient(score, x):
    return theano.grad(score(x).sum(), score.layer)


def _resized(cam, x, pixels):
    for axis in pixels:
        # Sums over axis 1 and appends the new one: a cycle through all.
        cam = T.tensordot(cam, interpolation(
            cam.shape[1], x.shape[axis], x.dtype), axes=[[1], [1]])
    return cam


def _axis_of_channels(score, x, given, alike):
    """Where the channels of a layer are, by what it was computed with."""
    A, axes = score.layer, {'channels_first': 1,
                            'channels_last': score.layer.ndim - 1}

    def above(place):
        v, axis = place
        if v is x or not v.owner or isinstance(v.owner.op, T.Reshape):
            return []
        op, (first, *others) = v.owner.op, v.owner.inputs
        if isinstance(op, (DimShuffle, T.Subtensor)):  # as around signals
            kept = op.new_order if isinstance(op, DimShuffle) else [
                i for i in range(first.ndim)
                if isinstance(dict(enumerate(op.idx_list)).get(i, slice(0)), slice)]
            return [] if kept[axis] == 'x' else [(first, kept[axis])]
        return [(i, axis) for i in [first] + others * (not is_spatial(v.owner))
                if getattr(i, 'ndim', 0) == v.ndim]

    # From the layer up to x: every variable, and the axis of the channels.
    places = {name: list(walk([(A, axis)], above))
              for name, axis in axes.items()}

    def nearest(name):  # of the convolution or pooling, which has axis 1
        return next((axis for v, axis in places[name]
                     if v.owner and is_spatial(v.owner)), None)
    found = next((name for name in axes if nearest(name) == 1), None)
    if given is not None and found not in (None, given):
        raise ValueError(f'the layer has {found}, not {given}')
    name = found or given or score.data_format
    if name not in axes:
        raise ValueError("expected data_format='channels_first' or "
                         f"'channels_last' for this layer, got {given!r}")
    in_x = [axis for v, axis in places[name] if v is x]
    if alike and in_x and axes[name] not in in_x:
        raise ValueError(f'the layer has {name}, the input has not: pass '
                         'resize=False')
    return axes[name]


def is_spatial(node):
    """Whether a node is a convolution or a pooling, of images or signals."""
    return type(node.op).__name__.startswith(('AbstractConv', 'Pool'))


def last_layer(x, z, layers):
    """The last of some layers on the way from x to z that has pixels."""
    spatial, last = set(), None
    for node in nodes_below(x, [z]):
        order = getattr(node.op, 'new_order', [0])  # samples stay in front
        if [*order[:1]] == [0] and (
                is_spatial(node) or spatial.intersection(node.inputs)):
            spatial.update(node.outputs)
            for v in node.outputs:
                if 2 < v.ndim in [i.ndim for i in x] and v in layers:
                    last = v
    return last


def interpolation(old, new, dtype):
    """The matrix that interpolates `old` pixels linearly at `new` positions."""
    old, new = T.cast(old, dtype), T.cast(new, dtype)
    position = (T.arange(new, dtype=dtype) + .5) * (old / new) - .5
    position = T.clip(position, 0, old - 1)
    distance = abs(position.dimshuffle(0, 'x') - T.arange(old, dtype=dtype))
    return T.maximum(0, 1 - distance)
