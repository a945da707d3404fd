"""Photographs for the examples: scikit-image's, or a user's own."""
import argparse
import os
import sys

import numpy as np

from common import MISSING
try:
    import skimage.data
    from PIL import Image, ImageOps
    from skimage.transform import resize
    from skimage.util import img_as_float
except ImportError as error:
    sys.exit(MISSING % error)


def read(path):
    """An image file as an RGBA array, the right way up."""
    with Image.open(path) as image:
        if image.mode not in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA'):
            raise ValueError('expected RGB, RGBA or grey, of 8 bits, got %s' %
                             image.mode)
        return np.array(ImageOps.exif_transpose(image).convert('RGBA'))


def prepare(image, side):
    """The square in the middle in RGB, `side` pixels wide, from 0 to 1."""
    image = img_as_float(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, np.newaxis], 3, axis=2)
    if image.shape[2] == 4:  # put it on white
        alpha = image[:, :, 3:]
        image = alpha * image[:, :, :3] + 1 - alpha
    height, width = image.shape[:2]
    square = min(height, width)
    y, x = (height - square) // 2, (width - square) // 2
    return resize(image[y:y + square, x:x + square], (side, side),
                  mode='reflect', anti_aliasing=True)


def load_images(paths, names, side):
    """Prepare the images at `paths`, or else scikit-image's: a dict by name.

    The `names` are those of functions of ``skimage.data`` that need nothing
    to be downloaded.
    """
    images = {}
    for path in paths:
        try:
            images[path] = prepare(read(path), side)
        except Exception as error:  # what is raised depends on the format
            sys.exit('%s: not an image that can be used (%s)' % (path, error))
    for name in () if paths else names:
        try:
            image = getattr(skimage.data, name)()
        except Exception as error:  # another version of scikit-image
            print('skipped %s, which scikit-image could not load (%s)' %
                  (name, error), file=sys.stderr)
            continue
        images[name] = prepare(image[0] if isinstance(image, tuple) else image,
                               side)
    if not images:
        sys.exit('There is no image to look at: name some (--image)')
    return images


def file(text):
    """An argument that names a file to read."""
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError('there is no file %r' % text)
    return text
