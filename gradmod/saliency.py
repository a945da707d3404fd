"""Saliency maps: expressions, and functions from numpy arrays to numpy arrays."""
import threading
import warnings
from collections import namedtuple
from collections.abc import Mapping

import numpy as np
import theano
import theano.tensor as T
from theano import scalar
from theano.ifelse import IfElse

from ._theano import DimShuffle, OpFromGraph, TensorVariable, Variable
from . import cam, deeplift, methods
from .base import is_composite
from .errors import check_count, describe, name_of, perhaps
from .graphs import flags, inputs_of, is_root, scalar_op, walk
from .methods import as_list
from .report import BATCH_SIZE, progress_bar
from .score import Score, as_classes, has_classes, is_word

METHODS = {f.__name__: f for f in (
    methods.gradient, methods.gradient_x_input, methods.relevance,
    methods.smoothgrad, methods.integrated_gradients, deeplift.deeplift,
    *cam.METHODS)}


def saliency_map(network, rule=None, target=None, method='gradient',
                 input_var=None, wrt=None, layer=None, logits=True, reduce=None,
                 **options):
    """The saliency map of a network's output, as an expression.

    Parameters
    ----------
    network : lasagne.layers.Layer or Variable
        The output layer of a Lasagne network, whose output is then computed
        with ``deterministic=True``; or the output of a network of any library,
        of shape (samples, classes).
    rule : optional
        What the network's rectifiers are to be under. It goes onto the
        expression of the output: what `override_in` takes, and finds every
        rectifier (`gradmod.RECTIFIERS`). For a Lasagne network also a dict of
        rules by layer, or a composite of `gradmod.lrp`: what `modified` takes.
        By default the network is taken as it is.
    target : optional
        What the score of a sample is:

        - None or 'max': the logit of its maximal class, of the first one where
          there is a tie (``logits.max(axis=1)`` sends a gradient to each);
        - an int: that class; or a vector of ints, one for each sample, as a
          numpy array or a Theano variable; or a matrix of zeros and ones, with
          a row for each sample: the sum over its classes;
        - a tuple of indices, for an output with axes beside (samples, classes):
          ``(3, 20, 24)`` is the unit of channel 3 at row 20, column 24, and
          ``(3,)`` the sum over that channel. The name of a layer before these
          takes its output in the network's place: ``('conv2', 3, 20, 24)``;
        - 'all': all classes, one after the other. The map has them on a second
          axis: shape (samples, classes, ...);
        - a function from the logits to a vector with the score of each sample,
          or to one number for all. The logits may then be of any shape.
    method : str or callable
        'gradient', 'gradient_x_input', 'relevance', 'smoothgrad',
        'integrated_gradients', 'deeplift', 'gradcam', 'gradcam_plus_plus',
        'layercam', 'scorecam' or 'guided_gradcam': the functions of these names
        in `gradmod.methods`, `gradmod.deeplift` and `gradmod.cam`, where the
        formulas are; or a function of your own that takes a
        `gradmod.score.Score` and the input.
    input_var : Variable or list of Variable, optional
        The input, of shape (samples, ...), or several. A Lasagne network does
        not need it. Where the input layer has an expression of one variable,
        the map is of that variable.
    wrt : Variable, lasagne.layers.Layer or str, optional
        What the map is of, with shape (samples, ...) and a float dtype: an
        expression that the output was made from; for a Lasagne network the
        output of one of its layers, or the name of one, such as that of word
        embeddings. By default the input; of several inputs all.
    layer : Variable, lasagne.layers.Layer or str, optional
        For class activation maps, in the same form as `wrt`. By default, the
        last one with pixels that comes from a convolution or a pooling.
    logits : bool
        Whether to take the gradient of the logits if the output is a softmax,
        a sigmoid or the logarithm of one, Theano's or one of the usual forms
        by hand; see `gradmod.logits`. Behind them a gradient vanishes where the
        network is sure.
    reduce : callable, optional
        From a map, an expression, to what is wanted of it. Over the channels
        (axis 1 in Lasagne; the last one of an embedding) these are usual:
        ``lambda m: abs(m).max(axis=1)``, ``lambda m: m.sum(axis=1)``, ``lambda
        m: m.norm(2, axis=1)``.
    **options
        Those of the method.

    Returns
    -------
    Variable or list
        The map, of the shape and dtype of the input, but for the target 'all',
        `reduce` and methods of your own. For several inputs a list, in which
        those of integers have None. A map of
        'integrated_gradients' or 'deeplift' has a ``tag.completeness_error``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the kind described; for a rule, as `override_in`
        and `modified` do.
    AssertionError
        When the expression is evaluated, if a class does not exist, or there
        is not one for each sample.

    See Also
    --------
    compile_saliency_function : the same as a function of numpy arrays.

    Warns
    -----
    UserWarning
        If the output depends on random draws, such as those of dropout; if
        there is a copy of the old recipe in it, whose gradient Theano ignores;
        if a composite comes without ``method='relevance'``, or that without one.

    Notes
    -----
    The gradient is that of the sum over the samples, which for each sample is
    its own as long as no sample influences the score of another. **Batch
    normalization must be deterministic**, that is, use stored statistics; so
    must dropout.

    A function as the target is applied at every point that a method looks at,
    while the classes of all other targets stay those at the input itself.

    For 'all', the forward pass is computed once, and then the gradients one
    after the other. All intermediate values of the forward pass stay in memory
    meanwhile, and the result is as many times the input as there are classes.
    The loops of this and of the methods that average keep their intermediate
    values as well, unless Theano's flag ``scan.allow_gc=True`` is set, which
    about halves the memory of a ResNet-32.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> import theano, theano.tensor as T
    >>> x = T.matrix('x', dtype='float32')
    >>> y = T.nnet.softmax(x * np.float32([3, 1]))
    >>> saliency = gradmod.saliency_map(y, input_var=x)
    >>> print(saliency.eval({x: np.float32([[1, 2], [1, 4]])}))
    [[3. 0.]
     [0. 1.]]
    """
    score = Score(network, rule, 0 if is_word(target, 'all') else target,
                  input_var, wrt, layer, logits)
    method = _function(method)
    _warn_of_graph(score, method, {})
    maps, _ = _explain(score, target, method, layer, reduce, options)
    return _arranged(score, maps)


def _arranged(score, maps):
    """The maps in the form of what they are of."""
    if not score.several or len(maps) != len(score.x):
        return maps[0]
    rest = iter(maps)
    return [next(rest) if v in score.x else None for v in score.inputs]


def _function(method):
    """What a method is called, or is, as a function."""
    f = METHODS.get(method) if isinstance(method, str) else method
    if not callable(f) or isinstance(f, type):
        raise ValueError(
            f'expected method to be a function or a name, got {describe(method)}: '
            f'{perhaps(method, METHODS)} (rule=gradmod.GuidedBackprop is a rule)')
    return f


def _explain(score, target, method, layer, reduce, options):
    """A list of the maps, for the target 'all' with an axis of classes, and a
    list of the completeness error, if the method has one."""
    if (layer is not None and method in METHODS.values()
            and method not in cam.METHODS):
        raise ValueError('layer is for class activation maps: say wrt')

    def explain(score):
        result = method(score, score.x, **options)
        maps = [reduce(v) if reduce else v for v in as_list(result)]
        for v in maps:
            if not (isinstance(v, TensorVariable) and v.ndim):
                raise TypeError('expected method (or reduce) to return a tensor, '
                                f'got {describe(v)}')
        if len(maps) not in (1, len(as_list(score.x))):
            raise TypeError('expected method to return a map, or one for each of '
                            f'{as_list(score.x)}, got {len(maps)}')
        errors = [v.tag.completeness_error for v in as_list(result)[:1]
                  if hasattr(getattr(v, 'tag', None), 'completeness_error')]
        return maps, errors
    if not is_word(target, 'all'):
        maps, errors = explain(score)
    else:
        def step(c):
            nonlocal count
            maps, errors = explain(score.of(c))
            count = len(maps)
            return maps + errors
        count = 0
        outputs, _ = theano.scan(step, sequences=[T.arange(score.z.shape[1])])
        outputs = [v.dimshuffle(1, 0, *range(2, v.ndim))
                   for v in as_list(outputs)]
        maps, errors = outputs[:count], outputs[count:]
    for v in maps if errors else ():
        (v.tag.completeness_error,) = errors
    return maps, errors


@flags(compute_test_value='off')  # the input for classes has none
def compile_saliency_function(network, rule=None, target=None,
                              method='gradient', input_var=None, wrt=None,
                              layer=None, logits=True, reduce=None, mode=None,
                              givens=None, **options):
    """Compile a function from images to their saliency maps.

    One function does for all images and all classes.

    Parameters
    ----------
    network : lasagne.layers.Layer or Variable
        As for `saliency_map`; an expression needs its `input_var`.
    rule, method, input_var, wrt, layer, logits, reduce, **options
        As for `saliency_map`.
    target : optional
        As for `saliency_map`. What is said here of classes counts in calls that
        give none, and 'given' makes that an error. For 'all', a tuple and a
        function, calls give none.
    mode : optional
        Theano's compilation mode.
    givens : dict, optional
        As for ``theano.function``: from other inputs that the output depends
        on to their values, such as ``{K.learning_phase(): numpy.uint8(0)}``
        for a Keras model with dropout or batch normalization.

    Returns
    -------
    SaliencyFunction
        Takes arrays of images, or any other samples, and returns arrays.

    Raises
    ------
    TypeError, ValueError
        As for `saliency_map`; if the target gives one number for the whole
        batch, as the function divides arrays into batches; if the output
        depends on another input besides, not in `givens`.

    See Also
    --------
    saliency_map : the same as an expression. See there for what a target is,
        and for what must hold of batch normalization.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> from lasagne.layers import DenseLayer, InputLayer
    >>> from lasagne.nonlinearities import softmax
    >>> import theano.tensor as T
    >>> net = InputLayer((None, 4), T.matrix('x', dtype='float32'))
    >>> net = DenseLayer(net, 8)
    >>> net = DenseLayer(net, 3, nonlinearity=softmax)
    >>> f = gradmod.compile_saliency_function(net, gradmod.GuidedBackprop)
    >>> f
    <saliency function: gradient under GuidedBackprop of float32 (None, 4)>
    >>> images = np.ones((10, 4), 'float32')
    >>> f(images).shape                               # the maximal class
    (10, 4)
    >>> f(images, 2).shape                            # class 2
    (10, 4)
    >>> f(images, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], batch_size=4).shape
    (10, 4)

    All classes; another method with its options; a method of your own:

    >>> f = gradmod.compile_saliency_function(net, target='all')
    >>> f(images).shape
    (10, 3, 4)
    >>> f = gradmod.compile_saliency_function(
    ...     net, method='integrated_gradients', steps=20, baseline=.5)
    >>> bool(abs(f.explain(images).completeness_error).max() < .1)
    True
    >>> def strongest(score, x):
    ...     return abs(gradmod.methods.gradient(score, x)).max(axis=1)
    >>> gradmod.compile_saliency_function(net, method=strongest)(images).shape
    (10,)
    """
    method = _function(method)
    takes_classes = has_classes(target) and not is_word(target, 'all')
    shape = getattr(network, 'output_shape', ())
    count = shape[1] if len(shape) == 2 else None
    if takes_classes and not is_word(target, None, 'max', 'given'):
        as_classes(target, count)
    score = Score(network, rule, None if takes_classes else
                  0 if is_word(target, 'all') else target,
                  input_var, wrt, layer, logits)
    inputs, givens = list(score.inputs), dict(givens or {})
    if not inputs:
        raise TypeError('expected input_var, which an expression needs')
    if takes_classes:
        classes = T.lmatrix('classes')
        inputs.append(classes)
        score = score.of(classes, maximal=True)
    if score.value.ndim == 0:
        raise TypeError('expected the target to give one score for each sample, '
                        'such as z[:, 2], got one for the whole batch')
    _warn_of_graph(score, method, givens, 4)  # one more, of the decorator
    maps, errors = _explain(score, target, method, layer, reduce, options)
    details = {'scores': score.value}
    if takes_classes:
        details.update(classes=score.classes, logits=score.z)
    elif is_word(target, 'all'):
        details.update(scores=score.z, logits=score.z)
    details.update({'completeness_error': error for error in errors})
    outputs = maps + list(details.values())
    others = [v for v in _above(outputs, inputs, givens)
              if is_root(v) and v not in inputs]
    if others:
        raise ValueError(f'the output depends on {others}, too: say with which '
                         f'values, by givens={{{others[0]}: ...}}')
    # Under ZeroBackprop a map depends on neither of the two.
    function = theano.function(inputs, outputs, mode=mode, givens=givens,
                               on_unused_input='ignore')
    description = name_of(method)
    if layer is not None or method in cam.METHODS:
        description += f' at {score.layer_name}'
    if wrt is not None:
        description += f' with respect to {score.wrt_name}'
    if rule is not None:
        description += f' under {name_of(rule)}'
    form = _arranged(score, list(range(len(maps))))
    inputs = [Input(name, v.dtype, shape) for name, v, shape
              in zip(score.names, score.inputs, score.shapes)]
    return SaliencyFunction(
        function, description, inputs, len(inputs) > 1 or isinstance(
            input_var, (list, tuple)), form, list(details), count, target)


def _above(outputs, inputs, givens):
    """All that `outputs` are made from, where `givens` are in their places."""
    def parents(v):
        if v in givens:
            return [v for v in [givens[v]] if isinstance(v, Variable)]
        above = [] if v in inputs else inputs_of(v)
        if above and (isinstance(v.owner.op, IfElse)
                      or scalar_op(v) == scalar.switch):
            value = above[0]
            while value.owner and isinstance(value.owner.op, DimShuffle):
                (value,) = value.owner.inputs
            value = givens.get(value, value)
            if not isinstance(value, Variable):  # Keras' learning phase
                half = len(above) // 2 + 1
                return above[1:half] if np.all(value) else above[half:]
        return above
    return (v for v in walk(outputs, parents) if v not in givens)


def _warn_of_graph(score, method, givens, stacklevel=3):
    """Warn of maps that are others than they may seem; of each reason once."""
    said, composite = {}, is_composite(score.rule)
    for v in _above([score.value], [], givens):
        op = v.owner and v.owner.op
        composite |= getattr(op, 'of_layers', False)
        if isinstance(op, OpFromGraph) and 'grad' in vars(op):
            said['grad'] = (
                f'{op}.grad was assigned, which Theano 1.0 ignores: derive '
                'the rule from gradmod.ModifiedBackprop')
        if any(getattr(i, 'default_update', None) for i in inputs_of(v)):
            said['draws'] = (
                f'the output depends on random draws, of {op}: maps differ from '
                'call to call. Build the network with deterministic=True, or say '
                'what is drawn by givens')
    if method in METHODS.values() and composite != (method is methods.relevance):
        said['relevance'] = (
            "method='relevance' and a composite, rule=gradmod.lrp.EpsilonPlus(), "
            'go together: neither alone gives relevance')
    for reason in said.values():
        warnings.warn(reason, stacklevel=stacklevel)


Input = namedtuple('Input', 'name dtype shape')


class Explanation(namedtuple('Explanation', 'maps scores classes logits '
                             'completeness_error')):
    """Maps, and what the same forward pass says of them.

    Attributes
    ----------
    maps
        As a `SaliencyFunction` returns them.
    scores : array
        What was explained: of shape (images,), or (images, classes) for the
        target 'all'.
    classes : array or None
        The class of each image whose score that is, by default the predicted
        one; where images may have several, on a second axis, with -1 where one
        has fewer. None for other targets.
    logits : array or None
        Of shape (images, classes): the network's output before its softmax, or
        that output. None if the target is a function or a unit.
    completeness_error : array or None
        What each map falls short of, where the method is integrated gradients
        or DeepLIFT; see there. Of the shape of the scores.
    """


class SaliencyFunction:
    """A compiled function from images to their saliency maps.

    What `compile_saliency_function` returns. It takes and returns numpy
    arrays. It has the network's own weights: new values of those count, without
    compiling again. It pickles, with a copy of the weights; another process
    compiles it when it loads it. To pickle that of a deep network takes a deep
    recursion: call ``sys.setrecursionlimit(10000)`` before. Threads that share
    it take turns.

    Attributes
    ----------
    function : theano function
        What was compiled: from a batch of each input, and a matrix of classes
        unless the target is 'all', a tuple or a function, to a list of maps,
        followed by what an `Explanation` has.
    inputs : list of (name, dtype, shape)
        The inputs of the network. Shapes are those of a batch, as far as they
        are known.
    classes : int or None
        The number of classes, if known.
    """

    def __init__(self, function, description, inputs, listed, form, details,
                 classes, target):
        self.function, self.description = function, description
        self.inputs, self.classes = inputs, classes
        self._listed, self._form, self._details = listed, form, details
        self._target = target if 'classes' in details else None
        self._lock = threading.Lock()  # Theano's functions share their storage

    def __getstate__(self):
        return dict(self.__dict__, _lock=None)

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.Lock())

    def __repr__(self):
        inputs = ', '.join(f'{v.dtype} {v.shape}' for v in self.inputs)
        return f'<saliency function: {self.description} of {inputs}>'

    def __call__(self, images, target=None, batch_size=BATCH_SIZE, progress=False,
                 out=None):
        """The maps of images.

        Parameters
        ----------
        images : array
            Of shape (n, ...) and the dtype of the network's input, or one that
            it can hold exactly. Also what gives such arrays when it is sliced:
            a memory map, an array of h5py or zarr. Of several inputs a list,
            in the order of the network's input layers or of `input_var`, or a
            dict by the names of these.
        target : None, 'max', int, vector of int or matrix, optional
            The class of all images, or of each; or a matrix of zeros and ones,
            (n, classes), for the sum of some. By default that said when the
            function was compiled.
        batch_size : int
            How many images to compute at once. Maps do not depend on it. A
            network with a fixed number of samples gets no more than these, and
            copies of the last image where there are too few.
        progress : bool
            Whether to show a progress bar. Needs tqdm.
        out : array, optional
            Where to write the maps, such as a memory map: of their shape, and
            a dtype that numpy casts theirs to ('same_kind'). Not for the maps
            of several inputs.

        Returns
        -------
        array, or list or dict of array
            The maps, of the shape and dtype of `images` (in the dtype of the
            network's input); for the target 'all' of shape (n, classes, ...).
            `out`, if given. Those of several inputs in the form of `images`,
            with None for integers.

        Raises
        ------
        TypeError
            If an argument is not of the kind described. A dtype that does not
            fit is an error rather than cast.
        ValueError
            If a shape or the dtype of `out` does not fit, a class does not
            exist, an image is not finite (a rule could turn a NaN into a map
            that looks right), or there is not one score and one map for each
            image.
        AssertionError
            If a class does not exist, for an expression, whose number of
            classes is not known before.
        ImportError
            If a progress bar is asked for without tqdm.

        Warns
        -----
        UserWarning
            If maps are zero everywhere, or not finite: once, with their number.
        """
        return self.explain(images, target, batch_size, progress, out).maps

    def explain(self, images, target=None, batch_size=BATCH_SIZE, progress=False,
                out=None):
        """The maps of images with scores, classes and logits.

        Parameters
        ----------
        images, target, batch_size, progress, out
            As in a call, which returns the maps alone.

        Returns
        -------
        gradmod.saliency.Explanation
            A named tuple of maps, scores, classes, logits, completeness_error.
        """
        target = self._target if target is None else target
        arrays = [self._check_images(array, v) for array, v in zip(
            self._in_order(images), self.inputs)]
        n = arrays[0].shape[0]
        if any(array.shape[0] != n for array in arrays):
            raise ValueError('expected as many samples of each input, got '
                             f'{[array.shape[0] for array in arrays]}')
        arrays += self._check_classes(target, n)
        check_count('batch_size', batch_size)
        fixed = [v.shape[0] for v in self.inputs if v.shape[0]]
        size = min([batch_size] + fixed)
        results, count, zero, not_finite = [], 0, 0, 0
        with self._lock:
            for i in progress_bar(progress, range(0, n, size)):
                batch = slice(i, min(i + size, n))
                values = self._compute([v[batch] for v in arrays], i, fixed)
                maps = values[:-len(self._details)]
                if i == 0:
                    results = [np.empty((n,) + v.shape[1:], v.dtype)
                               for v in values]
                    if out is not None:
                        self._check_out(out, results[:len(maps)])
                        results[0] = out
                for result, value in zip(results, values):
                    result[batch] = value
                # For 'all', an image has maps for each of its scores.
                scores = values[len(maps)]
                rows = [v.reshape(scores.size, -1) for v in maps]
                count += scores.size
                zero += scores.size - np.any(
                    [r.any(axis=1) for r in rows], axis=0).sum()
                not_finite += scores.size - np.all(
                    [np.isfinite(r).all(axis=1) for r in rows], axis=0).sum()
        if zero or not_finite:
            warnings.warn(
                f'of {count} maps {zero} are zero everywhere and {not_finite} '
                'are not finite: a score may be saturated (explain the logits), '
                'or a rule let nothing pass (compare with None)', stacklevel=3)
        maps, others = results[:len(maps)], results[len(maps):]
        details = dict.fromkeys(Explanation._fields)
        details.update(zip(self._details, others))
        details['maps'] = maps[0]
        if isinstance(self._form, list):
            details['maps'] = maps = [
                i if i is None else maps[i] for i in self._form]
            if isinstance(images, Mapping):
                details['maps'] = dict(zip([v.name for v in self.inputs], maps))
        if np.ndim(target) == 2:  # of an expression, how many there are shows now
            as_classes(target, details['logits'].shape[1])
        if 'classes' in self._details and details['classes'].shape[1] == 1:
            details['classes'] = details['classes'][:, 0]
        return Explanation(**details)

    def _in_order(self, values):
        """What is given for each of the inputs."""
        if not self._listed:
            return [values]
        names = [v.name for v in self.inputs]
        if (isinstance(values, Mapping) and len(values) == len(names)
                and set(values) == set(names)):
            return [values[name] for name in names]
        if not isinstance(values, (list, tuple)) or len(values) != len(names):
            got = [*values] if isinstance(values, Mapping) else describe(values)
            raise TypeError(f'expected a list of {len(names)} arrays, or a dict '
                            f'of {names}, got {got}')
        return values

    def _check_images(self, images, wanted):
        if not isinstance(getattr(images, 'shape', None), tuple):
            if (isinstance(images, (list, tuple))
                    and len({np.shape(v) for v in images}) > 1):
                raise ValueError('expected images of one shape (their classes are '
                                 'another argument)')
            images = np.asarray(images)
            # Python's numbers have no dtype: of integers, only their values.
            if images.dtype.kind in 'iuf' and (wanted.dtype in T.float_dtypes or (
                    images == images.astype(wanted.dtype)).all()):
                images = images.astype(wanted.dtype)
        shape = (None,) + wanted.shape[1:]
        if (len(images.shape) != len(shape) or images.shape[0] == 0 or not all(
                known in (None, n) for known, n in zip(shape, images.shape))):
            raise ValueError(f'expected one image or more, of shape {shape}, for '
                             f'{wanted.name or "the input"}, got {images.shape}')
        if not np.can_cast(images.dtype, wanted.dtype):
            raise TypeError(
                f'expected {wanted.dtype} for {wanted.name or "the input"}, got '
                f'{images.dtype}: convert by .astype({wanted.dtype!r})')
        return images

    def _check_classes(self, target, n):
        """A list of the matrix of classes, if the function takes one."""
        if 'classes' not in self._details:
            if target is not None:
                raise TypeError("expected no target in the call (it is 'all', a "
                                f'unit or a function), got {describe(target)}')
            return []
        if is_word(target, 'given'):
            raise TypeError('expected a target in the call (it was compiled for '
                            "'given'), got none")
        if is_word(target, None, 'max'):
            return [np.full((n, 1), -2)]
        target = as_classes(target, self.classes)
        if target.ndim and len(target) != n:
            raise ValueError(f'expected a target for each of {n} images, got '
                             f'{len(target)}')
        return [target if target.ndim == 2 else np.full((1, n), target).T]

    def _check_out(self, out, maps):
        v = maps[0]
        shape, dtype = (getattr(out, name, None) for name in ('shape', 'dtype'))
        if (len(maps) > 1 or shape != v.shape  # or filled in part
                or not np.can_cast(v.dtype, dtype, 'same_kind')):
            raise ValueError(f'expected out to be of shape {v.shape} and a dtype '
                             f'for {v.dtype}, for one map alone, got {shape} and '
                             f'{dtype}')

    def _compute(self, arrays, start, fixed):
        n = len(arrays[0])
        for i, v in enumerate(self.inputs):
            # Aligned, for C code, and no subclass, which may hide a NaN.
            arrays[i] = images = np.require(arrays[i], v.dtype, 'AE')
            if not np.isfinite(images).all():
                bad = np.isfinite(images).reshape(n, -1).all(axis=1).argmin()
                raise ValueError('expected finite images, got NaN or infinity in '
                                 f'image {start + bad} of {v.name or "the input"}')
        size = fixed[0] if fixed else n
        if size > n:  # a network with a fixed number of samples
            arrays = [np.concatenate([v, v[-1:].repeat(size - n, 0)])
                      for v in arrays]
        values = self.function(*arrays)
        for i, v in enumerate(values):
            if len(v) != size:
                what = ['score', 'map'][i < len(values) - len(self._details)]
                raise ValueError(f'expected one {what} for each of {size} '
                                 f'images, got {len(v)}')
        return [v[:n] for v in values]
