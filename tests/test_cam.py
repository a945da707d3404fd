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
from .models import (CLASSES, IMAGES, P, X, ConvModel, best, close,
                     compiled, convnet, interpolated, mlp, real_convolution,
                     restated, restated_gradcam, rng, saliency_input, value)

pytestmark = pytest.mark.usefixtures('no_compiler')
CONVOLUTION = rng.randn(4, 2, 2, 2)


def at(layer, score, x, method='gradcam', data_format='channels_first',
       function=compiled, **options):
    """A map at a layer of an expression, which has a score of each sample."""
    return function(score, None, lambda z: z, method, x, layer=layer,
                    data_format=data_format, **options)


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
    f = compiled(output, input_var=saliency_input(net), method=method, layer=A,
                 data_format='channels_first')
    close(f(IMAGES), every[predicted, range(3)], 'float64')


def test_gradcam_under_a_rule():
    net = convnet()
    model = ConvModel(net)
    want = np.array([restated_gradcam(model, x, 1, reference.guided)
                     for x in IMAGES])
    assert abs(want - restated('gradcam', model, IMAGES, [1] * 3)).max() > .001
    f = compiled(net, GuidedBackprop, 1, 'gradcam', layer='convolution')
    close(f(IMAGES), want, 'float64')
    # with the same rule for both factors, the one object
    f = compiled(net, GuidedBackprop, 1, 'guided_gradcam', layer='convolution')
    close(f(IMAGES), want * np.array([
        model.gradient(x, 1, reference.guided) for x in IMAGES]), 'float64')
    f = compiled(net, None, 1, 'guided_gradcam', layer='convolution',
                 guide=ZeroBackprop)
    np.testing.assert_array_equal(f(IMAGES), 0)


@pytest.mark.slow
def test_gradcam_in_c():
    net = convnet('float32', real_convolution)
    model, images = ConvModel(net), IMAGES.astype('float32')
    model.W = model.W[:, :, ::-1, ::-1]  # Lasagne convolves
    want = restated('guided_gradcam', model, images, best(model, images))
    f = compiled(net, method='guided_gradcam', mode='FAST_RUN')
    close(f(images), want, 'float32')


def test_gradcam_of_one_dimension():
    x = T.tensor3('x', dtype='float64')
    sounds = rng.randn(2, 4, 9)
    A = abs(x[:, ::2, ::3] + .5)  # two channels, three steps
    f = at(A, A.mean(axis=2).dot(P[:2, 1]), x)
    small = np.einsum('c,nct->nt', P[:2, 1] / 3, abs(sounds[:, ::2, ::3] + .5))
    close(f(sounds), np.array([[interpolated(row, 9)] * 4 for row in
                               reference.relu(small)]), 'float64')


def test_scorecam_masks_from_the_smallest_to_the_largest_value():
    x = T.tensor3('x', dtype='float64')
    sounds = rng.randn(2, 3, 5)
    masks = sounds - sounds.min(axis=2, keepdims=True)
    masks /= masks.max(axis=2, keepdims=True)
    scores = ((sounds[:, np.newaxis] * masks[:, :, np.newaxis]) ** 2).sum(
        axis=(2, 3))
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    A = x + 3
    f = at(A, ((A - 3) ** 2).sum(axis=(1, 2)), x, 'scorecam', resize=False)
    close(f(sounds), reference.relu(
        np.einsum('nc,nct->nt', weights, sounds + 3)), 'float64')


@pytest.mark.parametrize('old, new', [(1, 4), (2, 5), (4, 4), (3, 9), (7, 3)])
def test_interpolation(old, new):
    small = rng.randn(old)
    o, n = T.lscalars('on')
    matrix = value(cam.interpolation(o, n, 'float32'), {o: old, n: new})
    assert matrix.dtype == 'float32'
    np.testing.assert_allclose(matrix.dot(small), interpolated(small, new),
                               rtol=1e-5, atol=1e-6)


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
    want = at(B, (B.sum(axis=(2, 3)) * K).sum(axis=1), first, mode=None)
    got = at(A, (A.sum(axis=(1, 2)) * K).sum(axis=1), x, data_format=given,
             mode=None)
    close(got(IMAGES.transpose(0, 2, 3, 1)),
          want(IMAGES).transpose(0, 2, 3, 1), 'float64')


def test_gradcam_of_pixels_with_channels_last():
    x = T.dtensor4('x')
    A, images = abs(x), IMAGES.transpose(0, 2, 3, 1)
    f = at(A, (A ** 2).sum(axis=(1, 2, 3)), x, data_format='channels_last')
    values = abs(images)
    cams = (values * 2 * values.mean(axis=(1, 2), keepdims=True)).sum(axis=3)
    close(f(images), cams[..., np.newaxis] + 0 * images, 'float64')


def test_gradcam_at_the_size_of_the_layer():
    # the only map there is of a layer of another rank than the input
    words = T.dmatrix('words')
    A = words.dimshuffle(0, 'x', 1) * np.array([[[1.], [2.]]])
    f = at(A, A[:, 1].sum(axis=1), words, resize=False)
    np.testing.assert_allclose(f(X), 2 * reference.relu(X))
    with pytest.raises(TypeError, match='pass resize=False'):
        at(A, A[:, 1].sum(axis=1), words)
    with pytest.raises(TypeError, match='has no map of the size'):  # a mask
        at(A, A[:, 1].sum(axis=1), words, 'scorecam', resize=False)


def test_a_constant_channel_masks_all():
    x = T.dtensor4('x')
    image = np.arange(4.).reshape(1, 1, 2, 2) + 1
    A = T.concatenate([x, T.ones_like(x)], axis=1)
    f = at(A, A.sum(axis=(1, 2, 3)), x, 'scorecam', resize=False)
    scores = np.array([(image * (image - 1) / 3).sum() + 4, 4])
    w = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    np.testing.assert_allclose(f(image), w[0] * image[0] + w[1])


def test_what_gradcam_refuses():
    x = T.dtensor4('x')

    def refused(error, says, A, x=x, data_format='channels_first'):
        with pytest.raises(error, match=says):
            at(A, A.sum(axis=(1, 2, 3)), x, 'gradcam', data_format,
               saliency_map)
    refused(ValueError, 'channels_last, not channels_first', channels_last(x))
    for wrong in None, 'last':
        refused(ValueError, "data_format='channels_first'", x ** 2, x, wrong)
    refused(TypeError, 'say which by wrt', x ** 2, [x])
    some = T.nnet.conv2d(x, CONVOLUTION)[:, :2]  # of the channels
    at(some, some.sum(axis=(1, 2, 3)), x, data_format=None,
       function=saliency_map)
    with pytest.raises(TypeError, match='got NoneType .*: say layer'):
        saliency_map(convnet(), method='gradcam')
    with pytest.raises(TypeError, match='expected a layer of shape .*matrix'):
        saliency_map(mlp()[0], method='gradcam', layer='first')


def disagreement():
    """A layer whose channels are the second axis, those of x the last one."""
    x = T.dtensor4('x')
    z = T.nnet.conv2d(x.dimshuffle(0, 3, 1, 2), CONVOLUTION,
                      border_mode='full')
    A = T.nnet.relu(z[:, :, 1:, 1:])
    return A, A.sum(axis=(1, 2, 3)), x


def test_gradcam_where_layer_and_input_disagree():
    for given, says in [(None, 'the input has not: pass resize=False'),
                        ('channels_first', 'pass resize=False'),
                        ('channels_last', 'first, not channels_last')]:
        with pytest.raises(ValueError, match=says):
            at(*disagreement(), data_format=given, function=saliency_map)


@pytest.mark.slow
def test_gradcam_of_such_a_layer_at_its_own_size():
    A, z, x = disagreement()
    maps = at(A, z, x, data_format=None, resize=False, function=saliency_map)
    images = IMAGES.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(maps.eval({x: images}),
                               A.eval({x: images}).sum(axis=1))


def test_grad_cam_plus_plus_where_a_denominator_is_zero():
    x = T.dtensor4('x')
    image = np.arange(8.).reshape(1, 2, 2, 2) + 1
    image[0, 1, 1] = -7, -6  # 2 + g times the sum is 0 for g = 1
    K = np.array([[[0, 2.], [0, -1]], [[0, 1], [0, 0]]])
    A = x * 1
    f = at(A, (A * K).sum(axis=(1, 2, 3)), x, 'gradcam_plus_plus')
    w = 2 / (2 + 2 * image[0, 0].sum())
    np.testing.assert_allclose(f(image), w * image[:, [0, 0]])


def words():
    net = InputLayer((None, 9), T.lmatrix())
    net = EmbeddingLayer(net, 7, 4, name='words')
    net = DimshuffleLayer(net, (0, 2, 1), name='dimensions first')
    net = Conv1DLayer(net, 5, 3, name='signals')
    return DenseLayer(GlobalPoolLayer(net), 2)  # which has reshapes


def test_channels_of_signals():
    # the dimensions of words are the channels, but on another axis
    with pytest.raises(ValueError, match='pass resize=False'):
        saliency_map(words(), wrt='words', method='gradcam')
    with pytest.raises(ValueError, match='first, not channels_last'):
        saliency_map(words(), wrt='words', method='gradcam', resize=False,
                     data_format='channels_last')
    assert saliency_map(words(), wrt='dimensions first',
                        method='gradcam').ndim == 3
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
    last = A.dimshuffle(0, 2, 3, 1) * 2
    assert Score(last.sum(axis=(1, 2)), input_var=x).layer is last
    # below a rule, the layer that its function makes
    ruled = Score(z, GuidedBackprop, input_var=x)
    assert ruled.layer is not A and ruled.layer_name == str(A)
    f = compiled(net, method='layercam', mode=theano.Mode('py', None))
    assert repr(f).startswith('<saliency function: layercam at convolution of')
