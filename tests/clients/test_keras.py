"""Keras 2.3.1 on Theano: saliency of trained models. See the README here."""
import subprocess
import sys

import keras
import numpy as np
import pytest
import theano
import theano.tensor as T
from keras import backend as K
from keras.layers import (GRU, LSTM, Activation, BatchNormalization, Conv2D,
                          Dense, Dropout, Flatten, Input, LeakyReLU,
                          MaxPooling2D, PReLU, ReLU)
from keras.models import Model, load_model
from scipy.special import expit

import gradmod
from gradmod import DeconvNet, GuidedBackprop, ZeroBackprop, override_in

from .. import reference

FEATURES, CLASSES, STEPS = 6, 3, 4
RULES = [(GuidedBackprop, reference.guided), (DeconvNet, reference.deconv),
         (ZeroBackprop, reference.zero)]
TEST_PHASE = {K.learning_phase(): np.uint8(0)}


@pytest.fixture(autouse=True)
def quick():
    """No C code, but where a test says so: most of the time goes there."""
    np.random.seed(0)  # of Keras' initial weights, too
    with theano.configparser.change_flags(mode='FAST_COMPILE'):
        yield


def data(*shape):
    """Samples, and classes that a linear teacher gives to them."""
    rng = np.random.RandomState(1)
    x = rng.randn(300, *shape).astype('float32')
    teacher = rng.randn(x[0].size, CLASSES)
    return x, x.reshape(len(x), -1).dot(teacher).argmax(axis=1)


def train(inputs, outputs, epochs=20):
    model = Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(.02), 'sparse_categorical_crossentropy',
                  metrics=['accuracy'])
    x, y = data(*K.int_shape(inputs)[1:])
    model.fit(x, y, batch_size=50, epochs=epochs, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > .85
    return model, x[:20]


def dense(block):
    """A trained classifier with the hidden layers that `block` builds."""
    x = Input((FEATURES,))
    h = block(block(x, 8), 7)
    return train(x, Dense(CLASSES, activation='softmax')(h))


def normalized(h, units):
    h = Activation('relu')(BatchNormalization()(Dense(units)(h)))
    return Dropout(.2)(h)


BLOCKS = {'name': lambda h, units: Dense(units, activation='relu')(h),
          'layer': lambda h, units: ReLU()(Dense(units)(h)),
          'activation': lambda h, units: Activation('relu')(Dense(units)(h)),
          'normalized': normalized}


def linear_maps(model):
    """The pairs (W, b) of an MLP, batch normalization taken into them."""
    pairs = []
    for layer in model.layers:
        if isinstance(layer, Dense):
            pairs.append(tuple(layer.get_weights()))
        elif isinstance(layer, BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            scale = gamma / np.sqrt(variance + layer.epsilon)
            W, b = pairs[-1]
            pairs[-1] = W * scale, (b - mean) * scale + beta
    return pairs


def restated(model, x, rule):
    """The map of each sample's maximal logit."""
    weights = linear_maps(model)
    _, logits = reference.mlp_forward(x, weights)
    g = np.eye(CLASSES)[logits.argmax(axis=1)]
    return reference.mlp_backward(x, weights, g, rule)


def saliency(model, rule=None, **options):
    return gradmod.compile_saliency_function(
        model.output, rule, input_var=model.input, **options)


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * abs(b).max())


def differ(a, b):
    return abs(a - b).max() > .1 * abs(b).max()


# Models that know nothing of gradmod

@pytest.mark.parametrize('block', BLOCKS)
def test_trained_model(block):
    model, x = dense(BLOCKS[block])
    before = model.predict(x)
    for rule, numbers in [(None, reference.plain)] + RULES:
        expected = restated(model, x, numbers)
        assert expected.any() == (rule is not ZeroBackprop)
        assert_close(saliency(model, rule, givens=TEST_PHASE)(x), expected)
    np.testing.assert_array_equal(model.predict(x), before)


def test_override_in_then_gradients():
    model, x = dense(normalized)
    logits = model.output.owner.inputs[0]  # of Theano's softmax
    guided, report = override_in(logits, GuidedBackprop)
    assert [p.depth for p in report] == [0, 1]
    classes = reference.mlp_forward(x, linear_maps(model))[1].argmax(axis=1)
    score = guided[np.arange(len(x)), classes].sum()
    expected = restated(model, x, reference.guided)
    (by_keras,) = K.gradients(score, [model.input])
    for gradient in by_keras, theano.grad(score, model.input):
        f = K.function([model.input, K.learning_phase()], [guided, gradient])
        value, map = f([x, 0])
        assert_close(map, expected)
        assert_close(value, reference.mlp_forward(x, linear_maps(model))[1])


def test_saliency_map_takes_the_learning_phase_as_an_input():
    model, x = dense(normalized)
    map = gradmod.saliency_map(model.output, GuidedBackprop,
                               input_var=model.input)
    f = K.function([model.input, K.learning_phase()], [map])
    assert_close(f([x, 0])[0], restated(model, x, reference.guided))
    assert differ(f([x, 1])[0], f([x, 0])[0])
    with pytest.raises(ValueError, match='keras_learning_phase.*givens'):
        saliency(model)


@pytest.mark.parametrize('method', ['smoothgrad', 'integrated_gradients'])
def test_methods_in_a_loop(method):
    model, x = dense(normalized)
    f = saliency(model, method=method, givens=TEST_PHASE)
    maps, _, _, _, error = f.explain(x)
    np.testing.assert_array_equal(f(x), maps)  # dropout is off
    if method == 'integrated_gradients':
        value, start = [reference.mlp_forward(v, linear_maps(model))[1]
                        for v in (x, 0 * x)]
        classes = value.argmax(axis=1)
        sums = (value - start)[np.arange(len(x)), classes]
        np.testing.assert_allclose(
            maps.sum(axis=1) + error, sums, rtol=1e-3, atol=1e-3)
        assert abs(error).max() < .05 * abs(sums).max()


@pytest.mark.parametrize('static', [False, True])
def test_loaded_from_a_file(static, tmp_path):
    model, x = dense(normalized)
    path = str(tmp_path / 'model.h5')
    model.save(path)
    expected = restated(model, x, reference.guided)
    phase = K.learning_phase()
    if static:  # then dropout and the statistics of the batch are not built
        K.set_learning_phase(0)
    try:
        loaded = load_model(path)
    finally:
        K.theano_backend._LEARNING_PHASE = phase
    f = saliency(loaded, GuidedBackprop, givens=None if static else TEST_PHASE)
    assert_close(f(x), expected)


# Loops

def lstm_maps(layer, x, head, rule):
    """The map of the maximal logit of an LSTM, its rectifiers under `rule`.

    One sample and one step after the other, forward and back.
    """
    W, U, b = [w.astype('float64') for w in layer.get_weights()]
    V, v = head.get_weights()
    maps = np.zeros_like(x)
    for n, sample in enumerate(x):
        h, c, steps = np.zeros(len(U)), np.zeros(len(U)), []
        for row in sample:
            i, f, z, o = np.split(row.dot(W) + h.dot(U) + b, 4)
            i, f, o = expit([i, f, o])
            old, c = c, f * c + i * reference.relu(z)
            h = o * reference.relu(c)
            steps.append((i, f, z, o, old, c))
        dh, dc = V[:, (h.dot(V) + v).argmax()], np.zeros(len(U))
        for t, (i, f, z, o, old, c) in reversed(list(enumerate(steps))):
            dc = dc + reference.elementwise(rule, c, dh * o)
            gates = np.concatenate([
                dc * reference.relu(z) * i * (1 - i), dc * old * f * (1 - f),
                reference.elementwise(rule, z, dc * i),
                dh * reference.relu(c) * o * (1 - o)])
            dc = dc * f
            maps[n, t], dh = W.dot(gates), U.dot(gates)
    return maps


@pytest.mark.parametrize('implementation', [1, 2])
@pytest.mark.parametrize('unroll', [False, True])
def test_lstm(implementation, unroll):
    x = Input((STEPS, FEATURES))
    layer = LSTM(5, activation='relu', implementation=implementation,
                 unroll=unroll)
    head = Dense(CLASSES, activation='softmax')
    model, x = train(x, head(layer(x)))
    _, report = override_in(model.output, GuidedBackprop)
    assert ([p.scans for p in report] ==
            ([0] * 2 * STEPS if unroll else [1, 1]))
    for rule, numbers in [(None, reference.plain)] + RULES[:2]:
        assert_close(saliency(model, rule)(x),
                     lstm_maps(layer, x, head, numbers))


# Equal to a model built with the rule

def gru(relu):
    x = Input((STEPS, FEATURES))
    h = GRU(5, activation=relu, return_sequences=True)(x)
    return Model(x, Dense(CLASSES)(GRU(5, activation=relu)(h)))


def convnet(relu):
    x = Input((8, 8, 1))  # channels last, Keras' default
    h = Conv2D(3, 3, padding='same', activation=relu)(x)
    h = MaxPooling2D(2)(h)
    h = Flatten()(Conv2D(4, 3, activation=relu)(h))
    return Model(x, Dense(CLASSES, activation='softmax')(h))


@pytest.mark.parametrize('build, places', [(gru, 2), (convnet, 2)])
def test_equal_to_a_model_built_with_the_rule(build, places):
    plain, built = build('relu'), build(GuidedBackprop(K.relu))
    built.set_weights(plain.get_weights())
    assert len(override_in(plain.output, GuidedBackprop)[1]) == places
    x = data(*K.int_shape(plain.input)[1:])[0][:10]
    # convolutions have no other gradients
    mode = 'FAST_RUN' if build is convnet else None
    a, b, true = [saliency(model, rule, target=1, mode=mode)(x)
                  for model, rule in [(plain, GuidedBackprop), (built, None),
                                      (plain, None)]]
    assert_close(a, b)
    assert differ(a, true)


# What Keras makes of a rectifier

def test_forms():
    for layer, *more in [(ReLU(),), (ReLU(max_value=6),),
                         (ReLU(max_value=1e5), 'clip(x, 0, big)')]:
        _, report = override_in(layer(Input((FEATURES,))), GuidedBackprop)
        assert [p.form for p in report] == ['0.5 * (x + |x|)', *more]


@pytest.mark.parametrize('layer', [
    ReLU(negative_slope=.1), ReLU(max_value=6, negative_slope=.1),
    ReLU(threshold=1), LeakyReLU(.1), PReLU(), PReLU(shared_axes=[1])])
def test_leaky_layers_are_no_rectifiers(layer):
    y = layer(Input((4, FEATURES)))
    with pytest.raises(ValueError, match='found none'):
        override_in(y, GuidedBackprop)


def test_a_leaky_layer_is_found_by_a_rule_around_it():
    x = Input((FEATURES,))
    y = LeakyReLU(.25)(Dense(4, activation='relu')(x))

    def leaky(z):
        return K.relu(z, alpha=.25)
    new, report = override_in(y, gradmod.GuidedGradient(leaky))
    assert [p.form for p in report] == ['leaky']
    z = report[0].input
    signs = np.float32([1, -1, 1, -1])
    g = theano.function([z], theano.grad((new * signs).sum(), new.owner.inputs[0]))
    values = np.float32([[1, 1, -1, -1], [2, 3, -4, 5]])
    np.testing.assert_allclose(g(values), reference.elementwise(
        reference.guided_leaky(.25), values, signs * np.ones_like(values)))


# Models whose activations are rules from the start

class Explained(GuidedBackprop):
    """The true gradient to train with, that of guided backprop once `on`."""

    def __init__(self, nonlinearity):
        super().__init__(nonlinearity)
        self.on = theano.shared(np.int8(0))

    def grad(self, inputs, out_grads, outputs, true_grads):
        (guided,) = super().grad(inputs, out_grads, outputs)
        return (T.switch(self.on, guided, true_grads[0]),)


def test_rules_from_the_start_saving_and_loading(tmp_path):
    rule = Explained(K.relu)
    rule.__name__ = 'guided_relu'  # what Keras saves
    model, x = dense(
        lambda h, units: Activation(rule)(Dense(units, activation=rule)(h)))
    path = str(tmp_path / 'model.h5')
    model.save(path)
    loaded = load_model(path, custom_objects={'guided_relu': rule})
    np.testing.assert_allclose(loaded.predict(x), model.predict(x), rtol=1e-5)
    for on, numbers in enumerate([reference.plain, reference.guided]):
        rule.on.set_value(on)
        for f in map(saliency, (model, loaded)):
            assert_close(f(x), restated(model, x, numbers))
    with pytest.raises(ValueError, match='guided_relu'):
        load_model(path)


# Installation, and what a model is not

def test_keras_may_be_imported_first():
    subprocess.run([sys.executable, '-c', '''
import keras, gradmod
from keras import layers
x = layers.Input((3,))
y = layers.Dense(2, activation='relu')(x)
assert len(gradmod.override_in(y, gradmod.GuidedBackprop)[1]) == 1
'''], check=True)


def test_a_model_is_not_taken_for_an_expression():
    x = Input((FEATURES,))
    model = Model(x, Dense(CLASSES)(x))
    with pytest.raises(TypeError, match='Model'):
        override_in(model, GuidedBackprop)
    with pytest.raises(TypeError, match='Model'):
        gradmod.compile_saliency_function(model, input_var=model.input)
