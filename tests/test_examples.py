"""The programs in examples/, run as a user runs them.

The main one, digits.py, is what README.md's first command runs; here only what
that command does not show. The pretrained network's weights are not part of
the project: set GRADMOD_CIFAR_WEIGHTS to the path of cifar_model_n5.npz.
"""
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = os.path.join(os.path.dirname(__file__), os.pardir, 'examples')
WEIGHTS = os.environ.get('GRADMOD_CIFAR_WEIGHTS')


def run(program, *args):
    env = dict(os.environ)
    env['PYTHONPATH'] = os.path.abspath(os.path.join(EXAMPLES, os.pardir))
    process = subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, program)] + list(args),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        universal_newlines=True)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize('program, args, message', [
    ('digits.py', ['--images', '0'], 'whole number from 1 to 32'),
    ('digits.py', ['--output', 'nowhere/digits.png'], 'no folder'),
    ('sanity_check.py', ['--images', '0'], 'whole number from 1 to 400'),
    ('cifar_resnet.py', [], '--weights'),
    ('cifar_resnet.py', ['--weights', 'nowhere.npz'], 'nowhere.npz')])
def test_bad_arguments(program, args, message):
    code, out, err = run(program, *args)
    assert code != 0 and message in err
    assert 'Traceback' not in err


@pytest.fixture
def cifar_resnet(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module('cifar_resnet')


def test_images_of_any_kind(cifar_resnet, tmp_path):
    from PIL import Image
    path = str(tmp_path / 'image.png')
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
        got = cifar_resnet.load_images([path])[path]
        np.testing.assert_allclose(got, want, atol=1e-6, err_msg=kind)


def test_a_photograph_on_its_side(cifar_resnet, tmp_path):
    from PIL import Image
    path = str(tmp_path / 'image.png')
    rng = np.random.RandomState(0)
    array = rng.randint(0, 256, (32, 32, 3)).astype('uint8')
    turned = Image.Exif()
    turned[274] = 6  # the orientation: turn it clockwise to see it
    Image.fromarray(array).save(path, exif=turned)
    np.testing.assert_allclose(cifar_resnet.load_images([path])[path],
                               np.rot90(array, -1) / 255., atol=1e-6)


@pytest.mark.parametrize('kind', ['CMYK', 'I', 'F', None])
def test_images_that_cannot_be_used(cifar_resnet, tmp_path, kind):
    from PIL import Image
    path = tmp_path / 'image.tif'
    if kind:
        Image.new(kind, (32, 32)).save(str(path))
    else:
        path.write_text('no image')
    with pytest.raises(SystemExit, match='image.tif: not an image that can be '
                       'used .*%s' % (kind or '')):
        cifar_resnet.load_images([str(path)])


def accuracies(program):
    code, out, err = run(program)
    assert code == 0, err  # both say so if the rule has not helped
    return [float(number) for number in re.findall(r'([0-9.]+) %', out)]


def test_training_through_a_sign():
    true_gradient, straight_through = accuracies('binary_digits.py')
    assert straight_through > max(95, true_gradient)


def test_training_against_a_classifier_of_domains():
    _, without, source, target = accuracies('domain_adversarial.py')
    assert source > 93 and target > without + 3


@pytest.mark.skipif(not WEIGHTS, reason='needs the weights of the CIFAR-10 '
                    'ResNet-32: set GRADMOD_CIFAR_WEIGHTS to their path')
def test_cifar_resnet(tmp_path):
    import matplotlib.image
    path = tmp_path / 'maps.png'
    code, out, err = run('cifar_resnet.py', '--weights', WEIGHTS,
                         '--output', str(path))
    assert code == 0, err
    (chelsea,) = [line for line in out.splitlines() if 'chelsea' in line]
    assert 'cat' in chelsea
    probability = max(float(word) for word in chelsea.split()
                      if word.replace('.', '').isdigit())
    assert probability > .999
    picture = matplotlib.image.imread(str(path))[..., :3]
    assert picture.std() > .05
