import pickle
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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
from gradmod.saliency import compile_saliency_function

from . import reference
from .internals import RandomStreams, VM_Linker, generic
from .models import (CLASSES, LABELS, RULES, X, Model, OldRecipe, close,
                     compiled, mlp, pairs, restated)


@contextmanager
def warned(*says, here=True):
    """UserWarnings that say so, and name this file; else none."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always', UserWarning)
        yield
    seen = [w for w in seen if w.category is UserWarning]
    assert len(seen) == len(says), seen
    for w, words in zip(seen, says):
        assert re.search(words, str(w.message)), w.message
        assert not here or w.filename == __file__


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


def test_a_method_of_ones_own(net):
    def strongest(score, x, scale=1):
        return scale * abs(methods.gradient(score, x)).max(axis=1)

    class Strongest:
        __hash__ = None
        __call__ = staticmethod(strongest)
    want = 3 * abs(compiled(net)(X)).max(axis=1)
    f = compiled(net, method=strongest, scale=3)
    assert 'strongest' in repr(f)
    np.testing.assert_allclose(f(X, batch_size=2), want)
    np.testing.assert_allclose(compiled(net, method=Strongest())(X), want / 3)
    assert 'strongest at first of' in repr(
        compiled(net, method=strongest, layer='first'))
    assert compiled(net, method=strongest, target='all')(X).shape == (5, CLASSES)


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


def test_weights_that_change():
    net, weights = mlp()
    f, new = compiled(net), [v[::-1] for pair in weights for v in pair]
    lasagne.layers.set_all_param_values(net, new)
    close(f(X, 1), restated('gradient', Model(pairs(new)), X, [1] * 5),
          'float64')


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

    with pytest.raises(ValueError, match=r'\(5, 4\).*\(4, 5\)'):
        plain(X, out=np.zeros((4, 5)))
    with pytest.raises(ValueError, match='float64.*int64'):
        plain(X, out=np.zeros((5, 4), 'int64'))
    f = compiled(net, target='all')
    assert f(X, out=np.zeros((5, CLASSES, 4)), batch_size=2).any()
    with pytest.raises(ValueError, match=r'\(5, 3, 4\).*\(5, 4\)'):
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
    (X[0], ValueError, r'\(4,\)'),
    (X[:, :3], ValueError, r'\(None, 4\).* \(5, 3\)'),
    (X[:0], ValueError, r'\(0, 4\)'), ([['a'] * 4], TypeError, 'float64.*U1'),
    (X + 1j, TypeError, 'complex128'),
    ([X, LABELS], ValueError, 'classes are another'),
    ((list(X), list(LABELS)), ValueError, 'of one shape')])
def test_wrong_images(plain, images, error, says):
    with pytest.raises(error, match=says):
        plain(images)


@pytest.mark.parametrize('value', [np.nan, -np.inf])
def test_images_that_are_not_finite(plain, value):
    images = X.copy()
    images[3, 1] = value
    for given in images, np.ma.masked_invalid(images):  # which would hide it
        for size in 2, 64:
            with pytest.raises(ValueError, match='image 3'):
                plain(given, batch_size=size)


@pytest.mark.parametrize('target, error, says', [
    (3, ValueError, 'from 0 to 2, got 3'), ([0, 1, 2, 3, 4], ValueError, 'got 3'),
    (-1, ValueError, 'got -1'), ([0, 1], ValueError, '5 images, got 2'),
    (1., TypeError, 'float'), ('all', TypeError, r"'all'"),
    (len, TypeError, 'builtin_function')])
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
    with pytest.raises(ImportError, match='tqdm'):
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


def test_maps_of_zeros_and_nan_are_counted(net):
    for target, n in (None, 5), ('all', 15):
        f = compiled(net, ZeroBackprop, target)
        with warned(f'of {n} maps {n} are zero .* and 0 are'):
            np.testing.assert_array_equal(f(X, batch_size=2), 0)
    x = T.dmatrix('x')
    f = compiled(x * np.array([1, 0]), None, 'all', input_var=x)
    with warned('of 4 maps 2 are zero'):  # class 1
        f(X[:2, :2])
    f, images = compiled(T.sqrt(x), input_var=x), np.array(
        [[1., 2], [0, 0], [3, 0]])
    with warned('of 3 maps 0 .* and 2 are'):
        f(images, [0, 1, 1], batch_size=1)
    with warned():
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
    def mean(score, x):
        return methods.gradient(score, x).mean(axis=0, keepdims=True)
    f = compiled(net, method=mean)
    assert f(X[:1]).shape == (1, 4)
    with pytest.raises(ValueError, match='each of 5 .* got 1'):
        f(X)
    f = compiled(net, method=lambda *args: T.concatenate([mean(*args)] * 2))
    with pytest.raises(ValueError, match='each of 1 .* got 2'):
        f(X, batch_size=2)


def test_threads_take_turns(net):
    f = compiled(net, GuidedBackprop, method='smoothgrad', samples=3)
    want = [f(X, c) for c in range(CLASSES)]
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(f, X, k % CLASSES, batch_size=1 + k % 4)
                 for k in range(40)]
    for k, future in enumerate(found):
        np.testing.assert_allclose(future.result(), want[k % CLASSES],
                                   rtol=1e-12)


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
    z = np.array([Model(weights).logits(x) for x in X])
    np.testing.assert_allclose(plain.explain(X, batch_size=2).maps, plain(X),
                               rtol=1e-12)
    all_classes = compiled(net, target='all')
    for details, *want in [
            (plain.explain(X, batch_size=2), z.max(axis=1), z.argmax(axis=1), z),
            (plain.explain(X, LABELS), z[range(5), LABELS], LABELS, z),
            (all_classes.explain(X, batch_size=2), z, None, z),
            (compiled(net, target=lambda z: 2 * z[:, 1]).explain(X),
             2 * z[:, 1], None, None)]:
        for got, numbers in zip(details[1:], want + [None]):
            if numbers is None:
                assert got is None
            else:
                np.testing.assert_allclose(got, numbers)
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
    with pytest.raises(TypeError, match='or reduce. to return a tensor'):
        saliency_map(net, reduce=lambda m: np.ones((5, 4)))


def test_arrays_of_several_inputs():
    a, b, c = T.dmatrix('a'), T.imatrix('b'), T.dmatrix('c')
    B = np.ones((5, 4), 'int32')
    one = compiled(3 * a + c, input_var=[a, c], target=1,  # one map of all
                   method=lambda score, x: sum(methods.gradient(score, x)))
    np.testing.assert_array_equal(one([X, X]), 4 * np.eye(4)[[1] * 5])
    both = compiled(3 * a + c, input_var=[a, c], target=1)
    for out in np.empty((5, 4)), [X.copy(), X.copy()]:
        with pytest.raises(ValueError, match='for one map alone'):
            both([X, X], out=out)
    two = compiled(3 * a + b, input_var=[a, b], target=1)
    maps, none = two([X, B], batch_size=2)
    assert none is None
    np.testing.assert_array_equal(maps, 3 * np.eye(4)[[1] * 5])
    assert list(two({'b': B, 'a': X})) == ['a', 'b']
    for wrong, error, says in [
            (X, TypeError, "'a', 'b'"), ([X], TypeError, 'list of 2'),
            ({'a': X}, TypeError, r"\['a', 'b'\], got \['a'\]"),
            ([X, B[:3]], ValueError, r'\[5, 3\]'),
            ([X, X], TypeError, 'int32 for b'),
            ([X, B[0]], ValueError, 'for b.* .4,.'),
            ([X * np.nan, B], ValueError, 'image 0 of a')]:
        with pytest.raises(error, match=says):
            two(wrong)


def test_random_draws_are_named():
    x, training = T.dmatrix('x'), T.bscalar('training')
    draw = RandomStreams(0).uniform(size=x.shape)
    dropout = lasagne.layers.DropoutLayer(InputLayer((None, 2), x))
    for function in compile_saliency_function, saliency_map:
        with warned('random draws, of [Ru]'):
            function(x * draw, input_var=x)
    with warned('deterministic=True'):
        saliency_map(lasagne.layers.get_output(dropout), input_var=x)
    with warned():
        compiled(x * draw, input_var=x, givens={draw: T.ones_like(x)})
        saliency_map(dropout)
        saliency_map(x * 2, input_var=x, method='smoothgrad')
    for choose in (T.switch, ifelse,  # of one value, of two
                   lambda c, u, v: sum(ifelse(c, [x, u], [x, v]))):
        for phase, *values in (1, x * draw, x), (0, x, x * draw):
            options = {'input_var': x, 'givens': {training: np.int8(phase)}}
            with warned('random draws', here=False):
                compiled(choose(training, *values), **options)
            with warned():
                compiled(choose(training, *values[::-1]), **options)


def test_relevance_and_composites_go_together(net):
    composite = lrp.EpsilonPlus()
    right = [(composite, 'relevance'), (None, 'gradient'),
             (composite, lambda score, x: methods.gradient(score, x)),
             (GuidedBackprop, 'gradient')]
    wrong = [(composite, 'gradient'), (composite, methods.gradient_x_input),
             (None, 'relevance'), (GuidedBackprop, methods.relevance)]
    for function, n in (saliency_map, 4), (compile_saliency_function, 1):
        for says, cases in (['go together'], wrong), ([], right):
            for rule, method in cases[:n]:
                with warned(*says):
                    function(net, rule, method=method)
    for says, rule, method in [([], composite, 'relevance'),
                               (['go together'], composite, 'gradient'),
                               (['go together'], GuidedBackprop, 'relevance')]:
        with gradmod.modified(net, rule), warned(*says):
            saliency_map(net, method=method)
    x = T.dmatrix('x')
    with warned('draws', 'go together'):
        saliency_map(x * RandomStreams(0).uniform((4,)), method='relevance',
                     input_var=x)


@pytest.mark.usefixtures('no_compiler')
def test_the_old_recipe_is_named():
    x, recipe = T.dmatrix('x'), OldRecipe(T.nnet.relu)
    layer = NonlinearityLayer(InputLayer((None, 2), x), recipe)
    for network in recipe(x), layer:
        for function in compile_saliency_function, saliency_map:
            with warned('grad was assigned'):
                function(network, input_var=x)
