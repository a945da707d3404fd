import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (Conv1DLayer, Conv2DLayer, DenseLayer,
                            DimshuffleLayer, EmbeddingLayer, FeaturePoolLayer,
                            GlobalPoolLayer, InputLayer, get_all_layers,
                            get_output)

from gradmod import GuidedBackprop, ZeroBackprop, cam, saliency_map
from gradmod._theano import ancestors
from gradmod.score import Score

from . import reference
from .models import (CLASSES, IMAGES, P, PY, X, ConvModel, best, close,
                     compiled, convnet, interpolated, mlp, real_convolution,
                     restated, restated_gradcam, rng, saliency_input)

pytestmark = pytest.mark.usefixtures('no_compiler')


@pytest.mark.parametrize('method', sorted(f.__name__ for f in cam.METHODS))
def test_class_activation_maps(method):
    net = convnet()
    model = ConvModel(net)
    every = np.array([restated(method, model, IMAGES, [c] * 3)
                      for c in range(CLASSES)])
    predicted = best(model, IMAGES)
    f = compiled(net, method=method, layer='convolution')
    close(f(IMAGES), every[predicted, range(3)], 'float64')
    close(f(IMAGES, [2, 0, 1]), every[[2, 0, 1], range(3)], 'float64')
    layer = net.input_layer.input_layer
    f = compiled(net, None, 'all', method, layer=layer)
    close(f(IMAGES, batch_size=2), every.swapaxes(0, 1), 'float64')

    # the same from expressions
    output, A = get_output([net, layer])
    x = layer.input_layer.input_var
    f = compiled(output, input_var=x, method=method, layer=A,
                 data_format='channels_first')
    close(f(IMAGES), every[predicted, range(3)], 'float64')


def test_gradcam_under_a_rule():
    net = convnet()
    layer = net.input_layer.input_layer
    output, A = get_output([net, layer])
    model = ConvModel(net)
    want = np.array([restated_gradcam(model, x, 1, reference.guided)
                     for x in IMAGES])
    assert abs(want - restated('gradcam', model, IMAGES, [1] * 3)).max() > .001
    f = compiled(net, GuidedBackprop, 1, 'gradcam', layer=layer)
    close(f(IMAGES), want, 'float64')
    f = compiled(output, GuidedBackprop, 1, 'gradcam', layer=A,
                 input_var=layer.input_layer.input_var,
                 data_format='channels_first')
    close(f(IMAGES), want, 'float64')
    # with the same rule for both factors, the one object
    f = compiled(net, GuidedBackprop, 1, 'guided_gradcam', layer=layer)
    want = want * np.array([model.gradient(x, 1, reference.guided)
                            for x in IMAGES])
    close(f(IMAGES), want, 'float64')
    f = compiled(net, None, 1, 'guided_gradcam', layer=layer, guide=ZeroBackprop)
    np.testing.assert_array_equal(f(IMAGES), 0)


@pytest.mark.slow
def test_gradcam_in_c():
    net = convnet('float32', real_convolution)
    model, images = ConvModel(net), IMAGES.astype('float32')
    model.W = model.W[:, :, ::-1, ::-1]  # Lasagne convolves
    want = restated('guided_gradcam', model, images, best(model, images))
    f = compiled(net, method='guided_gradcam', layer='convolution',
                 mode='FAST_RUN')
    close(f(images), want, 'float32')


def test_gradcam_of_one_dimension():
    x = T.tensor3('x', dtype='float64')
    sounds = rng.randn(2, 4, 9)
    A = abs(x[:, ::2, ::3] + .5)  # two channels, three steps
    z = A.mean(axis=2).dot(P[:2])
    f = theano.function([x], saliency_map(
        z, target=1, method='gradcam', input_var=x, layer=A,
        data_format='channels_first'),
                        mode=PY)
    want = []
    for sound in sounds:
        cam = 0
        for k in range(2):
            cam = cam + P[k, 1] / 3 * abs(sound[2 * k, ::3] + .5)
        want.append([interpolated(reference.relu(cam), 9)] * 4)
    close(f(sounds), np.array(want), 'float64')


@pytest.mark.parametrize('old, new', [(1, 4), (2, 5), (4, 4), (3, 9), (7, 3)])
def test_interpolation(old, new):
    small = rng.randn(old)
    o, n = T.lscalars('on')
    matrix = theano.function([o, n], cam.interpolation(o, n, 'float32'),
                             mode=PY)(old, new)
    assert matrix.dtype == 'float32'
    np.testing.assert_allclose(matrix.dot(small), interpolated(small, new),
                               rtol=1e-5, atol=1e-6)


def test_gradcam_in_closed_form():
    x = T.dtensor4('x')
    K = np.array([[[1., 2], [-1, 4], [0, 3]], [[-2, 1], [1, -3], [0, 0]]])
    images = np.random.RandomState(0).randn(2, 2, 3, 2)
    A = T.nnet.relu(x)
    z = (A * K).sum(axis=(1, 2, 3))
    positive = np.maximum(images, 0)
    cam = np.maximum(1.5 * positive[:, :1] - .5 * positive[:, 1:], 0)
    guided = K * (K > 0) * (images > 0)
    assert (cam * guided).any() and (cam == 0).any()
    for method, want in [('gradcam', np.repeat(cam, 2, axis=1)),
                         ('guided_gradcam', cam * guided)]:
        f = compiled(z, input_var=x, method=method, layer=A,
                     target=lambda z: z, data_format='channels_first')
        np.testing.assert_allclose(f(images), want, rtol=1e-12)


CONVOLUTION = rng.randn(4, 2, 2, 2)


def channels_last(x):
    """As Keras does it: a convolution of channels first between two moves."""
    z = T.nnet.conv2d(x.dimshuffle(0, 3, 1, 2), CONVOLUTION)
    return T.nnet.relu(z.dimshuffle(0, 2, 3, 1) + 1)


@pytest.mark.parametrize('given', [None, 'channels_last'])
@pytest.mark.slow
def test_gradcam_with_channels_last(given):
    x, first = T.dtensor4s(2)
    A = channels_last(x)
    B = T.nnet.relu(T.nnet.conv2d(first, CONVOLUTION) + 1)
    K = np.arange(4.) - 1
    images = IMAGES.transpose(0, 2, 3, 1)
    want = compiled((B.sum(axis=(2, 3)) * K).sum(axis=1), input_var=first,
                    target=lambda z: z, method='gradcam', layer=B, mode=None)
    got = compiled((A.sum(axis=(1, 2)) * K).sum(axis=1), input_var=x,
                   target=lambda z: z, method='gradcam', layer=A, mode=None,
                   data_format=given)
    close(got(images), want(IMAGES).transpose(0, 2, 3, 1), 'float64')


def test_gradcam_at_the_size_of_the_layer():
    network = convnet()
    x = saliency_input(network)
    maps, A = [theano.function([x], v, mode=PY)(IMAGES) for v in (
        saliency_map(network, None, 1, 'gradcam', layer='convolution',
                     resize=False),
        get_output(network.input_layer.input_layer))]
    model = ConvModel(network)
    for image, small, a in zip(IMAGES, maps, A):
        g = model.gradient_at_layer(image, 1, reference.plain)
        assert small.shape == a.shape[1:]
        np.testing.assert_allclose(small, reference.relu(
            sum(g[c].mean() * a[c] for c in range(len(a)))))
    # a layer of another rank than the input has no other map
    words = T.dmatrix('words')
    A = words.dimshuffle(0, 'x', 1) * np.array([[[1.], [2.]]])
    options = dict(target=lambda z: z, method='gradcam', input_var=words,
                   layer=A, data_format='channels_first')
    f = compiled(A[:, 1].sum(axis=1), resize=False, **options)
    np.testing.assert_allclose(f(X), 2 * reference.relu(X))
    with pytest.raises(TypeError, match='pass resize=False'):
        compiled(A[:, 1].sum(axis=1), **options)
    options['method'] = 'scorecam'  # whose masks are of the input's size
    with pytest.raises(TypeError, match='has no map of the size'):
        compiled(A[:, 1].sum(axis=1), resize=False, **options)


def test_a_constant_channel_masks_all():
    x = T.dtensor4('x')
    image = np.arange(4.).reshape(1, 1, 2, 2)
    A = T.concatenate([x, T.ones_like(x)], axis=1)
    f = compiled(A.sum(axis=(1, 2, 3)), input_var=x, layer=A, method='scorecam',
                 target=lambda z: z, data_format='channels_first', resize=False)
    scores = np.array([(image * image / 3).sum() + 4, 4])
    w = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    np.testing.assert_allclose(f(image), w[0] * image[0] + w[1])


def test_what_gradcam_refuses():
    x = T.dtensor4('x')
    A = channels_last(x)
    z = A.sum(axis=(1, 2, 3))
    options = dict(target=lambda z: z, method='gradcam', input_var=x)
    with pytest.raises(ValueError, match='has channels_last, not channels_first'):
        saliency_map(z, layer=A, data_format='channels_first', **options)
    A = x ** 2
    for wrong in None, 'last':
        with pytest.raises(ValueError, match="expected data_format='channels_fi"):
            saliency_map(A.sum(axis=(1, 2, 3)), layer=A, data_format=wrong,
                         **options)
    some = T.nnet.conv2d(x, CONVOLUTION)[:, :2]  # of the channels
    saliency_map(some.sum(axis=(1, 2, 3)), layer=some, **options)
    with pytest.raises(TypeError, match='got several: say which by wrt'):
        saliency_map(A.sum(axis=(1, 2, 3)), layer=A, **dict(
            options, input_var=[x]))
    with pytest.raises(TypeError, match='got NoneType.*: say which by layer'):
        saliency_map(convnet(), method='gradcam')
    with pytest.raises(TypeError, match='expected a layer of shape .*matrix'):
        saliency_map(mlp()[0], method='gradcam', layer='first')


def disagreement():
    """A layer whose channels are the second axis, those of x the last one."""
    x = T.dtensor4('x')
    z = T.nnet.conv2d(x.dimshuffle(0, 3, 1, 2), CONVOLUTION, border_mode='full')
    A = T.nnet.relu(z[:, :, 1:, 1:])
    options = dict(target=lambda z: z, method='gradcam', input_var=x, layer=A)
    return x, A, A.sum(axis=(1, 2, 3)), options


def test_gradcam_where_layer_and_input_disagree():
    _, _, z, options = disagreement()
    for given in None, 'channels_first':
        with pytest.raises(ValueError, match='the input has not: pass resize=F'):
            saliency_map(z, data_format=given, **options)
    with pytest.raises(ValueError, match='has channels_first, not channels_la'):
        saliency_map(z, data_format='channels_last', **options)


@pytest.mark.slow
def test_gradcam_of_such_a_layer_at_its_own_size():
    x, A, z, options = disagreement()
    images = IMAGES.transpose(0, 2, 3, 1)
    cam, a = [v.eval({x: images}) for v in (
        saliency_map(z, resize=False, **options), A)]
    np.testing.assert_allclose(cam, a.sum(axis=1))


def test_grad_cam_plus_plus_where_nothing_depends_on_a_pixel():
    x = T.dtensor4('x')
    image = np.arange(8.).reshape(1, 2, 2, 2) + 1
    K = np.array([[[0, 2.], [0, -1]], [[0, 0], [0, 0]]])
    A = x * 1
    f = compiled((A * K).sum(axis=(1, 2, 3)), input_var=x, layer=A,
                 target=lambda z: z, method='gradcam_plus_plus',
                 data_format='channels_first')
    w = 2 / (2 + 2 * image[0, 0].sum())
    np.testing.assert_allclose(f(image), np.repeat(w * image[:, :1], 2, axis=1))


def words():
    net = EmbeddingLayer(InputLayer((None, 9), T.lmatrix()), 7, 4, name='words')
    net = DimshuffleLayer(net, (0, 2, 1), name='dimensions first')
    net = Conv1DLayer(net, 5, 3, name='signals')
    return DenseLayer(GlobalPoolLayer(net), 2)  # which has reshapes


def test_channels_of_signals():
    # the dimensions of words are the channels, but on another axis
    with pytest.raises(ValueError, match='the input has not: pass resize=False'):
        saliency_map(words(), wrt='words', method='gradcam')
    with pytest.raises(ValueError, match='first, not channels_last'):
        saliency_map(words(), wrt='words', method='gradcam', resize=False,
                     data_format='channels_last')
    maps = saliency_map(words(), wrt='dimensions first', method='gradcam')
    assert maps.ndim == 3
    assert saliency_map(words(), wrt='words', method='gradcam',
                        resize=False).ndim == 2


def test_the_last_layer_with_pixels_is_the_default():
    net = convnet(convolution=real_convolution)
    last = Score(net)
    assert last.layer_name == 'convolution' and last.layer.ndim == 4
    assert last.layer in ancestors([last.z])
    pooled = GlobalPoolLayer(Conv2DLayer(
        get_all_layers(net)[1], 3, 1, name='another'))
    assert Score(DenseLayer(pooled, 2)).layer_name == 'another'
    assert Score(pooled, GuidedBackprop).layer_name == 'another'
    assert Score(mlp()[0]).layer is None
    # the positions of maxima, which nothing uses, are no layer
    maxout = FeaturePoolLayer(get_all_layers(net)[1], 2, name='maxout')
    assert Score(DenseLayer(maxout, 2)).layer_name == 'maxout'

    assert Score(words(), wrt='words').layer_name == 'signals'

    x = T.dtensor4('x')
    A = T.nnet.relu(T.nnet.conv2d(x, CONVOLUTION))
    # a recurrent layer has another axis in front of that of the samples
    states = theano.scan(lambda v: v * 2, [A.dimshuffle(3, 0, 1, 2)])[0]
    assert Score(states[-1].sum(axis=2), input_var=x).layer is A
    z = A.sum(axis=(2, 3)) ** 2
    assert Score(z, input_var=x).layer is A
    # below a rule, the layer that its function makes
    ruled = Score(z, GuidedBackprop, input_var=x)
    assert ruled.layer is not A and ruled.layer_name == str(A)
    f = compiled(net, method='layercam', mode=theano.Mode('py', None))
    assert repr(f).startswith('<saliency function: layercam at convolution of')
