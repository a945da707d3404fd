"""The programs in examples/, run as a user runs them.

The main one, digits.py, is what README.md's first command runs; here only what
that command does not show. The pretrained networks' weights are not part of the
project: set GRADMOD_CIFAR_WEIGHTS to the path of cifar_model_n5.npz, and
GRADMOD_SQUEEZENET_WEIGHTS to that of compressed_SqueezeNet.net.
"""
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from .conftest import ROOT

EXAMPLES = os.path.join(ROOT, 'examples')
CIFAR = os.environ.get('GRADMOD_CIFAR_WEIGHTS')
SQUEEZENET = os.environ.get('GRADMOD_SQUEEZENET_WEIGHTS')


def run(program, *args):
    process = subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, program), *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT), universal_newlines=True)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize('program, args, message', [
    ('digits.py', ['--images', '0'], 'whole number from 1 to 32'),
    ('digits.py', ['--output', 'nowhere/digits.png'], 'no folder'),
    ('sanity_check.py', ['--images', '0'], 'whole number from 1 to 400'),
    ('text.py', ['--output', 'text.gif'], '.html or .png or .pdf or .svg'),
    ('imagenet.py', [], '--weights'),
    ('imagenet.py', ['--weights', 'nowhere.net'], 'nowhere.net'),
    ('imagenet.py', ['--weights', __file__],
     'github.com/songhan/SqueezeNet-Deep-Compression'),
    ('imagenet.py', ['--weights', __file__, '--classes', __file__],
     '1000 names')])
@pytest.mark.slow
def test_bad_arguments(program, args, message):
    code, out, err = run(program, *args)
    assert code != 0 and message in err
    assert 'Traceback' not in err


@pytest.fixture
def load(monkeypatch):
    """A function from the name of an example to the module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_images_of_any_kind(load, tmp_path):
    from PIL import Image
    path = str(tmp_path / 'image.png')

    def loaded():
        return load('photographs').load_images([path], [], 32)[path]
    rng = np.random.RandomState(0)
    array = rng.randint(0, 256, (32, 32, 4)).astype('uint8')
    image = Image.fromarray(array)
    shades = Image.fromarray(array[:, :, :3]).convert('P')
    for kind, source in [
            ('RGB', image), ('RGBA', image), ('L', image), ('LA', image),
            ('P', shades), ('1', image)]:
        source.convert(kind).save(path)
        rgba = np.array(source.convert(kind).convert('RGBA')) / 255.
        alpha = rgba[:, :, 3:]
        want = alpha * rgba[:, :, :3] + (1 - alpha)  # on white
        np.testing.assert_allclose(loaded(), want, atol=1e-6, err_msg=kind)
    turned = Image.Exif()
    turned[274] = 6  # the orientation: turn it clockwise to see it
    image.convert('RGB').save(path, exif=turned)
    want = np.rot90(array[:, :, :3], -1) / 255.
    np.testing.assert_allclose(loaded(), want, atol=1e-6)


@pytest.mark.parametrize('kind', ['CMYK', 'I', 'F', None])
def test_images_that_cannot_be_used(load, tmp_path, kind):
    from PIL import Image
    path = tmp_path / 'image.tif'
    if kind:
        Image.new(kind, (32, 32)).save(str(path))
    else:
        path.write_text('no image')
    with pytest.raises(SystemExit, match='image.tif: not an image that can be '
                       'used .*%s' % (kind or '')):
        load('photographs').load_images([str(path)], [], 32)


def compressed(weights, biases, codebooks):
    """The bytes of a file, by the description of its format."""
    counts, body = [], b''
    for W, b, codebook in zip(weights, biases, codebooks):
        table, codes, gaps, gap = list(codebook), [], [], 0
        for value in W.ravel():
            if value == codebook[0] and gap < 15:
                gap += 1
            else:  # another value, or as long a gap as there may be
                codes.append(table.index(value))
                gaps.append(gap)
                gap = 0
        counts.append(len(codes))
        halves = gaps + [0] * (len(gaps) % 2)
        body += codebook.astype('<f4').tobytes() + b.astype('<f4').tobytes()
        body += bytes(codes) + bytes(
            low + 16 * high for low, high in zip(halves[::2], halves[1::2]))
    return np.array(counts, '<u4').tobytes() + body


def test_compressed_weights(load, tmp_path):
    import lasagne
    imagenet = load('imagenet')
    network = imagenet.build_network()
    layers = [v for v in lasagne.layers.get_all_layers(network)
              if hasattr(v, 'W')]
    shapes = [v.W.get_value().shape for v in layers]
    assert len(shapes) == 26 and sum(map(np.prod, shapes)) == 1244448
    assert shapes[:4] == [(96, 3, 7, 7), (16, 96, 1, 1), (64, 16, 1, 1),
                          (64, 16, 3, 3)]
    rng = np.random.RandomState(0)  # few weights are not the first's
    codebooks = [rng.permutation(256).astype('float32') + .5 for _ in shapes]
    weights = [np.where(rng.rand(*shape) < .1, rng.choice(codebook, shape),
                        codebook[0])
               for shape, codebook in zip(shapes, codebooks)]
    biases = [rng.randn(shape[0]).astype('float32') for shape in shapes]
    data = compressed(weights, biases, codebooks)
    counts = np.frombuffer(data, '<u4', len(shapes))
    assert len(set(counts % 2)) == 2  # of an odd one, half a byte is unused
    path = tmp_path / 'weights.net'
    path.write_bytes(data)
    imagenet.load_weights(network, str(path))
    for layer, W, b in zip(layers, weights, biases):
        np.testing.assert_array_equal(layer.W.get_value()[..., ::-1, ::-1], W)
        np.testing.assert_array_equal(layer.b.get_value(), b)
    # the last has gaps beyond the end
    for wrong in data[:-1], data[:11], data + b'0', (
            data[:-20] + 20 * b'\xff'):
        path.write_bytes(wrong)
        with pytest.raises(SystemExit, match='expected compressed_Squeeze'):
            imagenet.load_weights(network, str(path))


def percentages(*args):
    code, out, err = run(*args)
    assert code == 0, err  # some say so if the rule has not helped
    return [float(number) for number in re.findall(r'([0-9.]+) %', out)]


@pytest.mark.slow
def test_training_through_a_sign():
    true_gradient, straight_through = percentages('binary_digits.py')
    assert straight_through > max(95, true_gradient)


@pytest.mark.slow
def test_training_against_a_classifier_of_domains():
    _, without, source, target = percentages('domain_adversarial.py')
    assert source > 93 and target > without + 3


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['html', 'png'])
def test_words_are_found(load, ending, tmp_path):
    path = tmp_path / f'text.{ending}'
    accuracy, times_input, gradient, chance = percentages(
        'text.py', '--output', str(path))
    assert accuracy > 97 and times_input > 95 and gradient > 2 * chance
    if ending == 'png':
        assert path.read_bytes()[1:4] == b'PNG'
        return
    bad, _, good = load('text').ADJECTIVES
    lines = path.read_text().splitlines()
    assert len(lines) == 8
    for line in lines:
        words = re.findall('title="([^"]+)"[^>]*>([^<]+)<', line)
        value, word = max(words, key=lambda pair: abs(float(pair[0])))
        assert word in (good if float(value) > 0 else bad)


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR, reason='needs the weights of the CIFAR-10 '
                    'ResNet-32: set GRADMOD_CIFAR_WEIGHTS to their path')
def test_cifar_resnet(load):
    import theano
    from lasagne.layers import get_all_layers, get_output
    resnet = load('cifar_resnet')
    network = resnet.build_network()
    resnet.load_weights(network, CIFAR)
    image = load('photographs').load_images([], ['chelsea'], 32)['chelsea']
    x = get_all_layers(network)[0].input_var
    (probabilities,) = theano.function(
        [x], get_output(network, deterministic=True))(
            (image.transpose(2, 0, 1) - resnet.MEAN)[None].astype(x.dtype))
    assert probabilities[3] > .999  # a cat


@pytest.mark.slow
@pytest.mark.skipif(not SQUEEZENET, reason='needs the weights of SqueezeNet: '
                    'set GRADMOD_SQUEEZENET_WEIGHTS to their path')
def test_imagenet(tmp_path):
    import matplotlib.image
    path = tmp_path / 'maps.png'
    code, out, err = run('imagenet.py', '--weights', SQUEEZENET,
                         '--output', str(path))
    assert code == 0, err
    best = dict(re.findall(r'^(\w+): class (\d+)', out, re.M))
    assert (best['chelsea'], best['coffee'], best['camera']) == (
        '285', '967', '872')
    nonzero = dict(re.findall(r'^(\w+) .* ([0-9.]+) %', out, re.M))
    assert len(nonzero) == 6 and all(float(v) > 80 for v in nonzero.values())
    picture = matplotlib.image.imread(str(path))[..., :3]
    assert min(picture.shape[:2]) > 4 * 227 and picture.std() > .05
