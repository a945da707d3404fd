import pickle
import subprocess
import sys
import threading
import warnings

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import InputLayer, NonlinearityLayer
from theano.ifelse import ifelse
from theano.sandbox.rng_mrg import MRG_RandomStreams

import gradmod
from gradmod import (GuidedBackprop, ZeroBackprop, lrp, methods,
                     saliency_map)
from gradmod._theano import OpFromGraph
from gradmod.saliency import compile_saliency_function

from . import reference
from .internals import RandomStreams, VM_Linker, generic
from .models import (CLASSES, LABELS, RULES, X, Model, close, compiled, mlp,
                     pairs, restated)


@pytest.mark.parametrize('method, error', [
    ('smooth_grad', ValueError), (None, ValueError),
    (['gradient'], ValueError), (np.ones(3), ValueError),
    (GuidedBackprop, ValueError), (lambda score, x: 3, TypeError),
    (lambda score, x: generic(), TypeError),
    (lambda score, x: score(x).sum(), TypeError),
    (lambda score, x: [methods.gradient(score, x), x], TypeError)])
def test_wrong_methods(net, method, error):
    for function in compiled, saliency_map:
        with pytest.raises(error, match='expected method'):
            function(net, method=method)
    with pytest.raises(ValueError, match='for class activation maps: say wrt'):
        saliency_map(net, layer='first')


class Strongest:
    __hash__ = None

    def __call__(self, score, x):
        return abs(methods.gradient(score, x)).max(axis=1)


def test_a_method_of_ones_own(net):
    def strongest(score, x, scale=1):
        return scale * abs(methods.gradient(score, x)).max(axis=1)
    want = 3 * abs(compiled(net)(X)).max(axis=1)
    f = compiled(net, method=strongest, scale=3)
    assert 'strongest' in repr(f)
    np.testing.assert_allclose(f(X, batch_size=2), want)
    np.testing.assert_allclose(compiled(net, method=Strongest())(X), want / 3)
    assert 'strongest at first of' in repr(
        compiled(net, method=strongest, layer='first'))
    f = compiled(net, method=strongest, target='all')
    assert f(X).shape == (5, CLASSES)


def test_targets_of_compiled_functions(net, weights):
    want = restated('gradient', Model(weights), X, LABELS)
    f = compiled(net, target='given')
    close(f(X, LABELS), want, 'float64')
    with pytest.raises(TypeError, match='expected a target in the call'):
        f(X)
    f = compiled(net, target=2)
    close(f(X), restated('gradient', Model(weights), X, [2] * 5), 'float64')
    close(f(X, LABELS), want, 'float64')
    for target in 'all', lambda z: z[:, 0]:
        with pytest.raises(TypeError, match='expected no target in the call'):
            compiled(net, target=target)(X, 1)
    close(compiled(net, target=LABELS)(X), want, 'float64')
    for wrong in T.lvector(), 'maximum':
        with pytest.raises(TypeError, match='target to be None'):
            compiled(net, target=wrong)


def test_givens_reach_what_the_random_numbers_need(weights):
    # Keras' way: one graph for training and test, and a variable that says
    # which; the update of the random numbers has it in its graph, too.
    x, training = T.dmatrix('x'), T.bscalar('training')
    stream = MRG_RandomStreams(1)
    (A, a), (B, b), (C, c) = weights
    h = T.nnet.relu(T.dot(x, A) + a)
    h = ifelse(training, 2 * h, h)
    h = ifelse(training, h * stream.uniform(size=h.shape), h)
    h = T.dot(T.nnet.relu(T.dot(h, B) + b), C) + c
    lazy = theano.Mode(VM_Linker(c_thunks=False, use_cloop=False),
                       'fast_compile')
    for rule, numbers in RULES.items():
        f = compile_saliency_function(
            T.nnet.softmax(h), rule, input_var=x, mode=lazy,
            givens={training: np.int8(0)})
        g = np.eye(CLASSES)[LABELS]
        np.testing.assert_allclose(f(X, LABELS), reference.mlp_backward(
            X, weights, g, numbers))


def test_weights_that_change(net, plain):
    values = lasagne.layers.get_all_param_values(net)
    new = [v[::-1] for v in values]
    try:
        lasagne.layers.set_all_param_values(net, new)
        want = restated('gradient', Model(pairs(new)), X, [1] * 5)
        close(plain(X, 1), want, 'float64')
    finally:
        lasagne.layers.set_all_param_values(net, values)


def watch(f, monkeypatch):
    """A list that gets what each batch consists of."""
    batches, function = [], f.function
    monkeypatch.setattr(f, 'function', lambda *batch: (
        batches.append(batch) or function(*batch)))
    return batches


@pytest.mark.parametrize('size, sizes', [
    (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (6, [5]), (None, [64, 1])])
def test_batches(plain, monkeypatch, size, sizes):
    want, batches = plain(X, LABELS), watch(plain, monkeypatch)
    images, options = X, {'batch_size': size}
    if size is None:
        images, options = np.tile(X, (13, 1)), {}
    got = plain(images, np.resize(LABELS, len(images)), **options)
    np.testing.assert_allclose(got, np.resize(want, images.shape), rtol=1e-12)
    assert [len(images) for images, _ in batches] == sizes


@pytest.mark.parametrize('size, last', [
    (1, [5, 5, 5, 5]), (3, [3, 4, 5, 5]), (64, [4, 5, 5, 5])])
def test_a_network_of_a_fixed_number_of_samples(monkeypatch, size, last):
    net = NonlinearityLayer(InputLayer((4, 2), T.dmatrix('x')), T.sqr)
    f = compiled(net, method='integrated_gradients')
    images, classes = np.arange(12.).reshape(6, 2) + 1, np.arange(6) % 2
    batches = watch(f, monkeypatch)
    maps, scores, _, _, error = f.explain(images, classes, size)
    want = images ** 2 * np.eye(2)[classes]
    np.testing.assert_allclose(maps, want)
    np.testing.assert_allclose(scores, want.sum(axis=1))
    np.testing.assert_allclose(error, np.zeros(6), atol=1e-12)
    assert {len(batch) for batch, _ in batches} == {4}
    np.testing.assert_array_equal(batches[-1][0], images[last])
    np.testing.assert_array_equal(batches[-1][1][:, 0], classes[last])


def test_out(plain, net, tmp_path):
    want = plain(X)
    out = np.full((5, 4), np.nan)
    assert plain(X, out=out) is out
    np.testing.assert_array_equal(out, want)
    out = np.memmap(str(tmp_path / 'maps'), 'float32', 'w+', shape=(5, 4))
    assert plain(X, out=out, batch_size=2) is out
    np.testing.assert_allclose(out, want, rtol=1e-6)
    images = X.copy()
    plain(images, out=images, batch_size=2)
    np.testing.assert_allclose(images, want, rtol=1e-12)

    with pytest.raises(ValueError, match=r'out .*\(5, 4\).*got .*\(4, 5\)'):
        plain(X, out=np.zeros((4, 5)))
    with pytest.raises(TypeError, match='out .* dtype for float64, got int64'):
        plain(X, out=np.zeros((5, 4), 'int64'))
    f = compiled(net, target='all')
    assert f(X, out=np.zeros((5, CLASSES, 4)), batch_size=2).any()
    with pytest.raises(ValueError, match=r'out .*\(5, 3, 4\).*got .*\(5, 4\)'):
        f(X, out=np.zeros((5, 4)))


def test_what_is_sliced_lazily(plain):
    class Lazy:
        shape, dtype, slices = X.shape, X.dtype, []

        def __getitem__(self, i):
            self.slices.append(i)
            return X[i].tolist()
    np.testing.assert_allclose(plain(Lazy(), batch_size=3), plain(X),
                               rtol=1e-12)
    assert Lazy.slices == [slice(0, 3), slice(3, 5)]


def test_what_counts_as_images(plain):
    np.testing.assert_array_equal(plain(list(X), list(LABELS)),
                                  plain(X, LABELS))
    whole = np.arange(8).reshape(2, 4)
    for images in whole, whole.astype('uint8'), whole.astype('float32'):
        got = plain(images)
        assert got.dtype == 'float64'
        np.testing.assert_array_equal(got, plain(whole.astype(float)))
    np.testing.assert_array_equal(plain(X[:, ::-1]), plain(X[:, ::-1].copy()))
    f = compiled(mlp('float32')[0])
    for images in X, X.astype(int):
        np.testing.assert_array_equal(f(images.tolist()),
                                      f(images.astype('float32')))
    with pytest.raises(TypeError, match=r"by .astype\('float32'\)"):
        f(X)


@pytest.mark.parametrize('images, error, says', [
    (X[0], ValueError, r'one image or more, of .* got \(4,\)'),
    (X[:, :3], ValueError, r'\(None, 4\), for .*, got \(5, 3\)$'),
    (X[:0], ValueError, r'got \(0, 4\)'),
    ([['a'] * 4], TypeError, 'of dtype float64 for .*, got <U1'),
    (X + 1j, TypeError, 'got complex128'),
    ([X, LABELS], TypeError, 'images and their classes are two arguments'),
    ((list(X), list(LABELS)), TypeError, 'are two arguments')])
def test_wrong_images(plain, images, error, says):
    with pytest.raises(error, match='^expected (.*)' + says):
        plain(images)


@pytest.mark.parametrize('value', [np.nan, -np.inf])
def test_images_that_are_not_finite(plain, value):
    images = X.copy()
    images[3, 1] = value
    for given in images, np.ma.masked_invalid(images):  # which would hide it
        for batch_size in 2, 64:
            with pytest.raises(ValueError, match='NaN or infinity in image 3'):
                plain(given, batch_size=batch_size)


@pytest.mark.parametrize('target, error, says', [
    (3, ValueError, 'a class from 0 to 2, got 3'),
    ([0, 1, 2, 3, 4], ValueError, 'got 3'),
    (-1, ValueError, 'got -1'),
    ([0, 1], ValueError, 'a target for each of 5 images, got 2'),
    (1., TypeError, 'got float'),
    ('all', TypeError, r"got str \('all'\)"),
    (len, TypeError, 'got builtin_function')])
def test_wrong_targets_in_a_call(plain, target, error, says):
    with pytest.raises(error, match=says):
        plain(X, target)


def test_progress(plain, capsys, monkeypatch):
    pytest.importorskip('tqdm')
    for function in plain, plain.explain:
        for options, seen in ({'progress': True}, '3/3'), ({}, ''):
            function(X, batch_size=2, **options)
            error = capsys.readouterr().err
            assert seen in error and bool(seen) == bool(error)
    monkeypatch.setitem(sys.modules, 'tqdm', None)
    with pytest.raises(ImportError, match='progress=True needs tqdm'):
        plain(X, progress=True)


def test_pickle_into_a_new_process(net):
    fs = [compiled(net, GuidedBackprop, lambda z: z[:, 1], 'smoothgrad'),
          compiled(net, method='integrated_gradients', target='all', steps=2)]
    code = ('import pickle, sys, theano; theano.config.cxx = ""  # no g++\n'
            'fs, images = pickle.load(sys.stdin.buffer)\n'
            'maps = [f(images, batch_size=2) for f in fs]\n'
            'pickle.dump((maps, repr(fs[0])), sys.stdout.buffer)')
    maps, name = pickle.loads(subprocess.check_output(
        [sys.executable, '-c', code], input=pickle.dumps((fs, X))))
    assert name == repr(fs[0])
    for f, got in zip(fs, maps):
        np.testing.assert_allclose(got, f(X), rtol=1e-12)


def places(warnings):
    """Where users are told that warnings come from."""
    return [w.filename for w in warnings if w.category is UserWarning]


def test_maps_of_zeros_and_nan_are_counted(net):
    for target, n in (None, 5), ('all', 15):
        f = compiled(net, ZeroBackprop, target)
        with pytest.warns(UserWarning,
                          match=f'of {n} maps {n} are zero .* and 0 are'):
            np.testing.assert_array_equal(f(X, batch_size=2), 0 * f(X))
    x = T.dmatrix('x')
    f = compiled(T.sqrt(x), input_var=x)
    with pytest.warns(UserWarning, match='of 4 maps 2 are zero'):  # class 1
        compiled(x * np.array([1, 0]), None, 'all', input_var=x)(X[:2, :2])
    images = np.array([[1., 2], [0, 0], [3, 0]])
    with pytest.warns(UserWarning, match='of 3 maps 0 .* and 2 are') as seen:
        f(images, [0, 1, 1], batch_size=1)
    assert places(seen) == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        f(images[:1])


@pytest.mark.slow
def test_images_that_are_not_aligned():
    x = T.dmatrix('x')
    f = gradmod.compile_saliency_function(x ** 2, input_var=x)  # in C
    raw = np.zeros(8 * 6 + 1, 'uint8')[1:].view('float64').reshape(3, 2)
    assert not raw.flags.aligned
    raw[...] = [[1, 2], [4, 3], [0, 5]]
    np.testing.assert_array_equal(f(raw), [[0, 4], [8, 0], [0, 10]])


def test_a_method_that_returns_one_map_for_all(net):
    f = compiled(net, method=lambda score, x: methods.gradient(
        score, x).mean(axis=0, keepdims=True))
    assert f(X[:1]).shape == (1, 4)
    with pytest.raises(ValueError, match='one map for each of 5 .* got 1'):
        f(X)
    f = compiled(net, method=lambda score, x: T.concatenate(
        2 * [methods.gradient(score, x).mean(axis=0, keepdims=True)]))
    with pytest.raises(ValueError, match='one map for each of 1 .* got 2'):
        f(X, batch_size=2)


def test_threads_take_turns(net):
    f = compiled(net, GuidedBackprop, method='smoothgrad', samples=3)
    want, got = [f(X, c) for c in range(CLASSES)], {}

    def run(k):
        for i in range(10):
            got[k, i] = f(X, k % CLASSES, batch_size=1 + k)
    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 40
    for (k, _), maps in got.items():
        np.testing.assert_allclose(maps, want[k % CLASSES], rtol=1e-12)


def test_another_number_of_scores_than_images_is_refused(net):
    with pytest.raises(TypeError, match='one score for each sample, such as'):
        compiled(net, target=lambda z: z[:, 1].mean())
    x = T.dtensor3('x')
    f = compiled(x.reshape((-1, 4)), input_var=x, target=lambda z: z[:, 0])
    with pytest.raises(ValueError, match='one score for each of 2 .* got 6'):
        f(np.ones((2, 3, 4)))
    f = compiled(x.reshape((-1, 4)), input_var=x)
    with pytest.raises(AssertionError, match='each row of the output'):
        f(np.ones((2, 3, 4)), [0, 1])


def test_what_explain_returns_besides(net, weights, plain):
    model = Model(weights)
    logits = np.array([model.logits(x) for x in X])
    details = plain.explain(X, batch_size=2)
    np.testing.assert_allclose(details.maps, plain(X), rtol=1e-12)
    np.testing.assert_allclose(details.logits, logits)
    np.testing.assert_array_equal(details.classes, logits.argmax(axis=1))
    np.testing.assert_allclose(details.scores, logits.max(axis=1))
    assert details.completeness_error is None
    details = plain.explain(X, LABELS)
    np.testing.assert_array_equal(details.classes, LABELS)
    np.testing.assert_allclose(details.scores, logits[range(5), LABELS])
    details = compiled(net, target='all').explain(X, batch_size=2)
    np.testing.assert_allclose(details.scores, logits)
    np.testing.assert_allclose(details.logits, logits)
    assert details.classes is None
    details = compiled(net, target=lambda z: 2 * z[:, 1]).explain(X)
    np.testing.assert_allclose(details.scores, 2 * logits[:, 1])
    assert details.logits is details.classes is None
    details = compiled(net, logits=False).explain(X)
    np.testing.assert_allclose(details.logits.sum(axis=1), 1)


def test_what_is_wanted_of_a_map(net, weights):
    want = restated('integrated_gradients', Model(weights), X, LABELS, steps=3)
    for reduce, numbers in [(lambda m: m.sum(axis=1), want.sum(axis=1)),
                            (lambda m: m.norm(2, axis=1),
                             np.sqrt((want ** 2).sum(axis=1)))]:
        f, every = [compiled(net, None, target, 'integrated_gradients',
                             reduce=reduce, steps=3)
                    for target in (None, 'all')]
        details = f.explain(X, LABELS, batch_size=2)
        np.testing.assert_allclose(details.maps, numbers)
        assert details.completeness_error.shape == (5,)
        np.testing.assert_allclose(every(X)[range(5), LABELS], numbers)
    with pytest.raises(TypeError, match='or reduce. to return a tensor'):
        saliency_map(net, reduce=T.sum)


def test_arrays_of_several_inputs():
    a, b, c = T.dmatrix('a'), T.imatrix('b'), T.dmatrix('c')
    B = np.ones((5, 4), 'int32')
    one = compiled(3 * a + c, input_var=[a, c], target=1,  # one map of all
                   method=lambda score, x: sum(methods.gradient(score, x)))
    np.testing.assert_array_equal(one([X, X]), 4 * np.eye(4)[[1] * 5])
    with pytest.raises(ValueError, match='for one map alone'):
        compiled(3 * a + c, input_var=[a, c], target=1)(
            [X, X], out=np.empty((5, 4)))
    two = compiled(3 * a + b, input_var=[a, b], target=1)
    maps, none = two([X, B], batch_size=2)
    assert none is None
    np.testing.assert_array_equal(maps, 3 * np.eye(4)[[1] * 5])
    assert list(two({'b': B, 'a': X})) == ['a', 'b']
    for wrong, error, says in [
            (X, TypeError, "a list of 2 arrays, or a dict of .'a', 'b'."),
            ([X], TypeError, 'a list of 2 arrays'),
            ({'a': X}, ValueError, r"a dict of \['a', 'b'\], got \['a'\]"),
            ([X, B[:3]], ValueError, r'as many samples .* got \[5, 3\]'),
            ([X, X], TypeError, 'images of dtype int32 for b'),
            ([X, B[0]], ValueError, 'of shape .None, None., for b, got .4,.'),
            ([X * np.nan, B], ValueError, 'NaN or infinity in image 0 of a')]:
        with pytest.raises(error, match=says):
            two(wrong)


def test_random_draws_are_named():
    x, training = T.dmatrix('x'), T.bscalar('training')
    draw = RandomStreams(0).uniform(size=x.shape)
    for function in compile_saliency_function, saliency_map:
        with pytest.warns(UserWarning, match='random draws, of [Ru]') as seen:
            function(x * draw, input_var=x)
        assert places(seen) == [__file__]
    dropout = lasagne.layers.DropoutLayer(InputLayer((None, 2), x))
    output = lasagne.layers.get_output(dropout)
    with pytest.warns(UserWarning, match='deterministic=True'):
        saliency_map(output, input_var=x)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        compiled(x * draw, input_var=x, givens={draw: T.ones_like(x)})
        saliency_map(dropout)
        saliency_map(x * 2, input_var=x, method='smoothgrad')
    for choose in T.switch, ifelse:
        for phase, *values in (1, x * draw, x), (0, x, x * draw):
            options = {'input_var': x, 'givens': {training: np.int8(phase)}}
            with pytest.warns(UserWarning, match='random draws'):
                compiled(choose(training, *values), **options)
            with warnings.catch_warnings():
                warnings.simplefilter('error', UserWarning)
                compiled(choose(training, *values[::-1]), **options)


def test_relevance_and_composites_go_together(net):
    composite = lrp.EpsilonPlus()
    right = [(composite, 'relevance'), (None, 'gradient'),
             (composite, lambda score, x: methods.gradient(score, x)),
             (GuidedBackprop, 'gradient')]
    wrong = [(composite, 'gradient'), (composite, methods.gradient_x_input),
             (None, 'relevance'), (GuidedBackprop, methods.relevance)]
    for function in saliency_map, compile_saliency_function:
        for rule, method in wrong:
            with pytest.warns(UserWarning, match='go together') as seen:
                function(net, rule, method=method)
            assert places(seen) == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            for rule, method in right:
                function(net, rule, method=method)
            with gradmod.modified(net, composite):
                function(net, method='relevance')
        for rule, method in (composite, 'gradient'), (GuidedBackprop, 'relevance'):
            with gradmod.modified(net, rule):
                with pytest.warns(UserWarning, match='go together'):
                    function(net, method=method)
    x = T.dmatrix('x')
    with pytest.warns(UserWarning) as seen:
        saliency_map(x * RandomStreams(0).uniform((4,)), method='relevance',
                     input_var=x)
    assert len(places(seen)) == 2  # of the draws, too


class Recipe:
    def __call__(self, x):
        z = x.type()
        op = OpFromGraph([z], [T.nnet.relu(z)])
        op.grad = lambda inputs, out_grads: out_grads
        return op(x)


@pytest.mark.usefixtures('no_compiler')
def test_the_old_recipe_is_named():
    x = T.dmatrix('x')
    layer = NonlinearityLayer(InputLayer((None, 2), x), Recipe())
    for network in Recipe()(x), layer:
        for function in compile_saliency_function, saliency_map:
            with pytest.warns(UserWarning, match='grad was assigned') as seen:
                function(network, input_var=x)
            assert places(seen) == [__file__]
