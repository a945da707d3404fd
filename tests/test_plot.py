import io
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip('matplotlib')
from matplotlib import rc_context  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import imread  # noqa: E402

from gradmod import plot  # noqa: E402
from gradmod.plot import map_to_rgb, normalize, plot_saliency  # noqa: E402

WHITE, BLACK, GREY, MAGENTA = [1] * 3, [0] * 3, [.5] * 3, [1, 0, 1]
# The outermost colours of the two maps, by their names in hexadecimal.
RED, BLUE, PURPLE = (
    np.array([int(name[i:i + 2], 16) for i in (0, 2, 4)]) / 255
    for name in ('b3101f', '1450a0', '4a148c'))
Z = np.zeros((2, 2))
ZEROS = np.zeros((2, 4, 5))
QUADRANTS = np.array([[2., -2.], [0., 1.]])  # right way up, a known picture


@pytest.fixture(autouse=True)
def no_warnings():
    # Theano turns numpy's off.
    with warnings.catch_warnings(), np.errstate(all='warn', under='ignore'):
        warnings.simplefilter('error')
        yield


@pytest.fixture
def rng():
    return np.random.RandomState(0)


def rendered(figure):
    """The pixels of a figure, as a person sees them: from the upper left."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.


def cell(figure, axes):
    """The pixels of a cell but for its frame."""
    pixels = rendered(figure)
    box = axes.get_window_extent()
    x0, y0, x1, y1 = (int(round(x)) for x in box.extents)
    assert np.allclose(box.extents, [x0, y0, x1, y1], atol=.01)
    height = len(pixels)
    return pixels[height - y1:height - y0, x0:x1][3:-3, 3:-3]


def enlarged(pixels, figure, axes):
    """What `cell` should return for an image."""
    exact = axes.get_window_extent().width / pixels.shape[1]
    scale = int(round(exact))
    assert abs(exact - scale) < .01
    return np.kron(pixels, np.ones((scale, scale, 1)))[3:-3, 3:-3]


def assert_drawn(figure, axes, pixels):
    np.testing.assert_allclose(
        cell(figure, axes), enlarged(np.asarray(pixels), figure, axes),
        atol=1.01 / 255)


# normalize

def test_normalize_is_symmetric_and_keeps_zero():
    np.testing.assert_array_equal(normalize([[-4, 0], [2, 1]], 100),
                                  [[-1, 0], [.5, .25]])
    np.testing.assert_array_equal(normalize([1, 4], 100), [.25, 1])


def test_normalize_clips_at_the_percentile_of_the_absolute_values(rng):
    values = rng.randn(1000)
    values[0] = -1000
    ordered = sorted(abs(values))
    limit = .95 * ordered[949] + .05 * ordered[950]  # between: linear
    got = normalize(values, 95)
    np.testing.assert_allclose(got, [max(-1, min(1, v / limit))
                                     for v in values])
    assert got[0] == -1 and (abs(got) == 1).sum() == 50


def test_default_percentile_ignores_the_largest_5_of_1000():
    values = np.ones(1001)
    values[:5] = 1e6
    assert (normalize(values) == 1).all()


def test_normalize_falls_back_to_the_maximum_of_a_sparse_map():
    values = np.zeros(1000)
    values[:2] = [3, -6]
    np.testing.assert_array_equal(normalize(values)[:3], [.5, -1, 0])


def test_normalize_by_a_limit():
    np.testing.assert_array_equal(normalize([-3, 0, 1, 5], limit=2),
                                  [-1, 0, .5, 1])


@pytest.mark.parametrize('values', [Z, [], [np.nan, np.inf]])
def test_normalize_of_nothing(values):
    got = normalize(values)
    assert got.dtype == float and got.shape == np.shape(values)
    assert not np.nan_to_num(got).any()


def test_normalize_of_values_that_are_not_finite():
    np.testing.assert_array_equal(
        normalize([np.nan, np.inf, -np.inf, 2, -1], 100),
        [np.nan, np.nan, np.nan, 1, -.5])


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'int8', 'bool'])
def test_normalize_dtypes(dtype):
    got = normalize(np.array([0, 1, 1], dtype))
    assert got.dtype == float
    np.testing.assert_array_equal(got, [0, 1, 1])


def test_normalize_of_extreme_values():
    np.testing.assert_array_equal(normalize([5e-324, 0], 100), [1, 0])
    np.testing.assert_array_equal(normalize([1e308, -1e308]), [1, -1])
    assert normalize([1e308, 1e-320, 1e-320], 1)[0] == 1


# map_to_rgb

def test_signed_colours():
    got = map_to_rgb(QUADRANTS, percentile=100)
    assert got.shape == (2, 2, 3)
    np.testing.assert_allclose(got[0], [RED, BLUE])
    np.testing.assert_array_equal(got[1, 0], WHITE)
    red, green, blue = got[1, 1]
    assert red > green and red > blue and green > RED[1]


def test_zero_is_white_however_lopsided_the_map():
    for values in [0, 5], [0, -5], [0, 5, -1e-9], [0, 0], [-0., 1]:
        assert (map_to_rgb([values])[0, 0] == 1).all()


def test_opposite_values_are_equally_strong():
    colours = map_to_rgb([np.linspace(-1, 1, 101)], percentile=100)[0]
    whiteness = colours.min(axis=1)
    np.testing.assert_allclose(whiteness, whiteness[::-1], atol=.1)
    assert (colours[:50, 2] > colours[:50, 0]).all()  # blue
    assert (colours[51:, 0] > colours[51:, 2]).all()  # red


def test_absolute_colours():
    got = map_to_rgb([[-2, 2, 0]], 'absolute')
    np.testing.assert_allclose(got, [[PURPLE, PURPLE, WHITE]])


def test_rgb_is_an_image_around_grey():
    chw = np.zeros((3, 1, 4))
    chw[:, 0, 1] = [2, 0, -2]
    chw[:, 0, 2] = [1, 1, 1]
    np.testing.assert_allclose(
        map_to_rgb(chw, 'rgb', 100, layout='CHW'),
        [[GREY, [1, .5, 0], [.75] * 3, GREY]])
    np.testing.assert_allclose(map_to_rgb([[-4, 0, 2]], 'rgb', 100),
                               [[BLACK, GREY, [.75] * 3]])


def test_channels_are_reduced():
    hwc = np.array([[[1, 2, 1], [3, -5, 2], [0, -2, 0]]])
    np.testing.assert_array_equal(map_to_rgb(hwc, 'signed', layout='HWC'),
                                  map_to_rgb([[4, 0, -2]]))
    np.testing.assert_array_equal(map_to_rgb(hwc, 'absolute', layout='HWC'),
                                  map_to_rgb([[2, 5, 2]], 'absolute'))
    np.testing.assert_array_equal(map_to_rgb(hwc, limit=8, layout='HWC'),
                                  map_to_rgb([[4, 0, -2]], limit=8))


def test_sum_of_small_integers_does_not_overflow():
    hwc = np.full((1, 1, 3), 100, 'int8')
    np.testing.assert_allclose(map_to_rgb(hwc, layout='HWC')[0, 0], RED)
    np.testing.assert_allclose(
        map_to_rgb(np.int8([[-128]]), 'absolute')[0, 0], PURPLE)


@pytest.mark.parametrize('mode', ['signed', 'absolute', 'rgb'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_magenta(mode, value):
    hwc = np.ones((2, 2, 3))
    hwc[0, 1, 1] = value
    got = map_to_rgb(hwc, mode)
    np.testing.assert_array_equal(got[0, 1], MAGENTA)
    hwc[0, 1] = 1
    expected = map_to_rgb(hwc, mode)
    expected[0, 1] = MAGENTA
    np.testing.assert_array_equal(got, expected)


def test_infinities_that_cancel_are_magenta():
    np.testing.assert_array_equal(
        map_to_rgb(np.array([[[np.inf, -np.inf, 0]]]), layout='HWC'),
        [[MAGENTA]])


def test_no_colour_is_magenta():
    for colours in plot.COLOURS.values():
        assert colours.N % 2
        assert abs(colours(np.arange(257))[:, :3] - MAGENTA).max(1).min() > .3


def test_each_map_has_its_own_scale_and_a_limit_is_shared():
    maps = np.array([[[1., -1]], [[10, -5]]])
    own = map_to_rgb(maps, percentile=100)
    np.testing.assert_allclose(own[:, 0, 0], [RED, RED])
    np.testing.assert_array_equal(own[1], map_to_rgb(maps[1], percentile=100))
    shared = map_to_rgb(maps, limit=10)
    assert (shared[0, 0, 0] > RED).all()
    np.testing.assert_allclose(shared[1, 0, 0], RED)


def test_percentile_clips_colours():
    row = np.arange(101.)[np.newaxis]
    np.testing.assert_allclose(map_to_rgb(row, percentile=50)[0, 50:],
                               [RED] * 51)


def test_cmap():
    got = map_to_rgb([[-1, 0, 1]], cmap='gray', percentile=100)
    np.testing.assert_allclose(got, [[BLACK, GREY, WHITE]], atol=.003)
    got = map_to_rgb([[0, -1]], 'absolute', cmap=plot.COLOURS['rgb'])
    np.testing.assert_allclose(got, [[BLACK, WHITE]])


# layouts

SHAPES = {'HW': (4, 5), 'CHW': (3, 4, 5), 'HWC': (4, 5, 3), 'NHW': (2, 4, 5),
          'NCHW': (2, 3, 4, 5), 'NHWC': (2, 4, 5, 3)}


def arranged(nhwc, layout):
    """The first image, or all, of an array, in another layout."""
    for axis in 'NC':
        if axis not in layout:
            nhwc = nhwc.take([0], axis='NHWC'.index(axis))
    nhwc = nhwc.transpose(['NHWC'.index(axis) for axis in 'NC' if axis not in
                           layout] + ['NHWC'.index(axis) for axis in layout])
    return nhwc.reshape(nhwc.shape[4 - len(layout):])


@pytest.mark.parametrize('explicit', [False, True])
@pytest.mark.parametrize('layout', plot.LAYOUTS)
def test_layouts(layout, explicit, rng):
    nhwc = rng.randn(2, 4, 5, 3)
    if 'C' not in layout:
        nhwc = nhwc[..., :1]
    array = arranged(nhwc, layout)
    assert array.shape == SHAPES[layout]
    expected = map_to_rgb(nhwc, layout='NHWC')
    if 'N' not in layout:
        expected = expected[0]
    if layout == 'CHW' and not explicit:
        with pytest.raises(ValueError, match="perhaps you meant layout='CHW'"):
            map_to_rgb(array)
    else:
        got = map_to_rgb(array, layout=layout if explicit else None)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('shape, expected', [
    ((1, 4, 5), (4, 5, 3)), ((4, 5, 1), (4, 5, 3)), ((4, 5, 3), (4, 5, 3)),
    ((2, 1, 4, 5), (2, 4, 5, 3)), ((2, 4, 5, 1), (2, 4, 5, 3)),
    ((6, 4, 5), (6, 4, 5, 3)), ((1, 1, 4, 5), (1, 4, 5, 3))])
def test_layout_is_found(shape, expected):
    assert map_to_rgb(np.zeros(shape)).shape == expected


@pytest.mark.parametrize('shape, layouts', [
    ((3, 4, 5), 'CHW or NHW'), ((3, 4, 3), 'CHW or HWC'),
    ((1, 4, 3), 'CHW or HWC'), ((2, 3, 4, 3), 'NCHW or NHWC'),
    ((2, 1, 4, 3), 'NCHW or NHWC')])
def test_ambiguous_layout(shape, layouts):
    with pytest.raises(ValueError) as error:
        map_to_rgb(np.zeros(shape))
    assert str(error.value) == (
        'map_to_rgb: saliency: expected a shape that tells the layout, got '
        "%s, which may be %s; perhaps you meant layout='%s'" %
        (shape, layouts, layouts.split()[0]))


@pytest.mark.parametrize('image_layout, map_layout', [
    (a, b) for a in plot.LAYOUTS for b in plot.LAYOUTS
    if ('N' in a) == ('N' in b)])
def test_maps_follow_the_images(image_layout, map_layout, rng):
    images, maps = rng.rand(2, 4, 5, 3), rng.randn(2, 4, 5, 3)
    if 'C' not in image_layout:
        images = images[..., :1]
    if 'C' not in map_layout:
        maps = maps[..., :1]
    figure = plot_saliency(arranged(images, image_layout),
                           [arranged(maps, map_layout)], layout=image_layout,
                           colorbar=False, size=.2)
    n = 2 if 'N' in image_layout else 1
    assert len(figure.axes) == 2 * n
    for row in range(n):
        image, map = figure.axes[2 * row:2 * row + 2]
        assert_drawn(figure, image, np.broadcast_to(images[row], (4, 5, 3)))
        assert_drawn(figure, map, map_to_rgb(maps[row], layout='HWC'))


def test_maps_of_small_images_prefer_the_layout_of_the_images(rng):
    images, maps = rng.rand(3, 3, 3), rng.randn(3, 3, 3)
    for layout in 'CHW', 'HWC':
        figure = plot_saliency(images, maps, layout=layout)
        assert_drawn(figure, figure.axes[1], map_to_rgb(maps, layout=layout))


# plot_saliency

def test_a_known_picture_is_neither_flipped_nor_transposed():
    image = np.array([[0, .25], [.5, 1]])
    figure = plot_saliency(image, QUADRANTS, percentile=100)
    left, right, bar = figure.axes
    assert_drawn(figure, left, np.repeat(image[..., np.newaxis], 3, axis=2))
    assert_drawn(figure, right, map_to_rgb(QUADRANTS, percentile=100))
    pixels = cell(figure, right)
    h, w = (n // 4 for n in pixels.shape[:2])
    np.testing.assert_allclose(pixels[h, w], RED, atol=.005)
    np.testing.assert_allclose(pixels[h, -w], BLUE, atol=.005)
    np.testing.assert_array_equal(pixels[-h, w], WHITE)
    assert pixels[-h, -w, 0] > pixels[-h, -w, 2] > RED[2]


def test_rows_are_images_and_columns_are_methods(rng):
    images = rng.rand(3, 2, 2)
    maps = {'a': rng.randn(3, 2, 2), 'b': rng.randn(3, 2, 2)}
    figure = plot_saliency(images, maps, labels=['x', 'y', 'z'], layout='NHW')
    axes = np.reshape(figure.axes[:9], (3, 3))
    for i in range(3):
        assert_drawn(figure, axes[i, 0], np.stack([images[i]] * 3, axis=2))
        for j in range(2):
            assert_drawn(figure, axes[i, j + 1], map_to_rgb(maps['ab'[j]][i]))
    assert [a.get_title() for a in axes[0]] == ['image', 'a', 'b']
    assert [a.get_ylabel() for a in axes[:, 0]] == ['x', 'y', 'z']
    assert not any(a.get_title() for a in axes[1:].ravel())
    assert not any(a.get_ylabel() for a in axes[:, 1:].ravel())
    x, y = ([[getattr(a.get_position(), d) for a in row] for row in axes]
            for d in ('x0', 'y1'))
    assert (np.diff(x, axis=1) > 0).all() and (np.diff(y, axis=0) < 0).all()
    assert np.ptp(x, axis=0).max() < 1e-9 and np.ptp(y, axis=1).max() < 1e-9


def test_titles():
    def titles(*args, **kwargs):
        return [axes.get_title() for axes in plot_saliency(
            Z, *args, colorbar=False, **kwargs).axes]

    assert titles(Z) == titles([Z])[:2] == ['', '']
    assert titles([Z, Z], titles=['a', 2]) == ['image', 'a', '2']
    assert titles({'a': Z}, titles=['b']) == ['image', 'b']
    assert titles({1: Z}) == ['image', '1']
    assert titles((Z,), titles=('a',)) == ['image', 'a']


def test_uint8_bool_and_float_images_agree():
    image = np.uint8([[0, 51], [204, 255]])
    expected = rendered(plot_saliency(image, Z))
    for other in image / 255., (image / 255.).astype('float32'):
        got = rendered(plot_saliency(other, Z))
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(
        rendered(plot_saliency(image > 100, Z)),
        rendered(plot_saliency(np.float32(image > 100), Z)))


def test_rounding_errors_in_images_are_forgiven(caplog):
    image = np.array([[-1e-6, 1 + 1e-6]], 'float32')
    figure = plot_saliency(image, np.zeros((1, 2)))
    assert_drawn(figure, figure.axes[0], [[BLACK, WHITE]])
    assert not caplog.records  # matplotlib has a word on such, elsewhere


@pytest.mark.parametrize('value', [0, .5, 1])
def test_constant_images_keep_their_grey(value):
    figure = plot_saliency(np.full((2, 2), value, float), Z)
    assert_drawn(figure, figure.axes[0], np.full((2, 2, 3), value))
    assert_drawn(figure, figure.axes[1], np.ones((2, 2, 3)))


def test_overlay():
    image = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]], float)
    grey = np.array([[.299, .587], [.114, 1]])[..., np.newaxis]
    figure = plot_saliency(image, QUADRANTS, overlay=True, layout='HWC')
    assert_drawn(figure, figure.axes[0], image)
    assert_drawn(figure, figure.axes[1],
                 .7 * map_to_rgb(QUADRANTS) + .3 * grey)


@pytest.mark.parametrize('h, w', [(4, 8), (9, 3), (5, 5), (1, 7), (50, 31)])
@pytest.mark.parametrize('size', [.3, .77, 1.7])
def test_aspect_and_size(h, w, size):
    image = np.indices((h, w)).sum(axis=0) % 2.  # a chess board
    figure = plot_saliency(image, [image - .5], titles=['a'], labels=['b'],
                           size=size)
    for axes in figure.axes[:2]:
        box = axes.get_window_extent()
        assert abs(box.width / w - box.height / h) < .01
        assert abs(max(box.width, box.height) - size * figure.dpi) < .01
    assert figure.dpi >= 160 - 1e-9
    assert_drawn(figure, figure.axes[0], np.stack([image] * 3, axis=2))
    assert_drawn(figure, figure.axes[1], map_to_rgb(image - .5))


@pytest.mark.parametrize('h, w, size', [(28, 28, 2), (37, 101, 1.1)])
def test_each_pixel_of_a_saved_picture_is_as_many_dots(h, w, size, rng):
    images = rng.randint(256, size=(2, h, w, 3)).astype('uint8')
    figure = plot_saliency(images, images / 256. - .5, size=size)
    png = io.BytesIO()
    figure.savefig(png)
    png.seek(0)
    picture = imread(png)[..., :3]
    drawn = [a for a in figure.axes if a.images]
    assert len(drawn) == 4
    for axes, image in zip(drawn[::2], images):
        x, _, width, height = (int(round(d)) for d in
                               axes.get_window_extent().bounds)
        y = len(picture) - int(round(axes.get_window_extent().y1))
        scale = width // w
        assert (width, height) == (scale * w, scale * h)
        np.testing.assert_allclose(
            picture[y:y + height, x:x + width][2:-2, 2:-2],
            np.kron(image / 255., np.ones((scale, scale, 1)))[2:-2, 2:-2],
            atol=.51 / 255)


def test_aspect_is_kept_in_a_figure_of_another_shape():
    figure = plot_saliency(np.zeros((4, 8)), np.zeros((4, 8)))
    figure.set_size_inches(10, 3)
    figure.canvas.draw()
    box = figure.axes[1].get_window_extent()
    assert abs(box.width / box.height - 2) < .01


def test_more_pixels_than_dots_are_all_drawn():
    image = np.indices((250, 200)).sum(axis=0) % 2.  # a chess board
    figure = plot_saliency(image, image - .5)
    assert_drawn(figure, figure.axes[0], np.stack([image] * 3, axis=2))


def test_nothing_overlaps_and_all_is_inside():
    z = np.zeros((2, 2, 3))
    for titles, labels, size in [
            (None, None, 1),
            (['a\nb', 'a title that is long'], ['c', 'd'], .2),
            (['a', 'b'], ['a label that is long\n' * 4, ''], .3)]:
        figure = plot_saliency(z, [z, z], titles, labels, size=size,
                               layout='NHW')
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        boxes = []
        for axes in figure.axes:
            boxes.append(axes.get_window_extent())
            texts = ([axes.title, axes.yaxis.label] if axes is not
                     figure.axes[-1] else axes.get_xticklabels())
            boxes += [t.get_window_extent(renderer) for t in texts
                      if t.get_text()]
        for i, a in enumerate(boxes):
            assert a.x0 >= 0 and a.x1 <= figure.bbox.x1
            assert a.y0 >= 0 and a.y1 <= figure.bbox.y1
            for b in boxes[:i]:
                assert (a.x0 >= b.x1 or b.x0 >= a.x1
                        or a.y0 >= b.y1 or b.y0 >= a.y1)


@pytest.mark.parametrize('kwargs, ticks, texts, colours', [
    ({}, [-1, 0, 1], ['\u2212P99.5', '0', 'P99.5'], [BLUE, WHITE, RED]),
    ({'percentile': 90}, [-1, 0, 1], ['\u2212P90', '0', 'P90'],
     [BLUE, WHITE, RED]),
    ({'percentile': 100}, [-1, 0, 1], ['\u2212max', '0', 'max'],
     [BLUE, WHITE, RED]),
    ({'limit': .25}, [-.25, 0, .25], ['\u22120.25', '0', '0.25'],
     [BLUE, WHITE, RED]),
    ({'mode': 'absolute'}, [0, 1], ['0', 'P99.5'], [WHITE, PURPLE]),
    ({'mode': 'absolute', 'limit': 3}, [0, 3], ['0', '3'], [WHITE, PURPLE]),
    ({'mode': 'rgb'}, [-1, 0, 1], ['\u2212P99.5', '0', 'P99.5'],
     [BLACK, GREY, WHITE]),
    ({'cmap': 'gray'}, [-1, 0, 1], ['\u2212P99.5', '0', 'P99.5'],
     [BLACK, GREY, WHITE])])
def test_colour_bar(kwargs, ticks, texts, colours):
    figure = plot_saliency(Z, QUADRANTS, **kwargs)
    pixels, bar = rendered(figure), figure.axes[-1]
    np.testing.assert_array_equal(bar.get_xticks(), ticks)
    assert [t.get_text() for t in bar.get_xticklabels()] == texts
    box = bar.get_window_extent()
    row = pixels[len(pixels) - int(box.y0 + box.height / 2)]
    inwards = np.linspace(3, -3, len(ticks))  # away from the frame
    for tick, inward, colour in zip(ticks, inwards, colours):
        x = bar.transData.transform((tick, 0))[0] + inward
        np.testing.assert_allclose(row[int(x)], colour, atol=.06)


@pytest.mark.parametrize('percentile', [99.5, 100])
def test_the_ends_are_pointed_if_values_may_be_clipped(percentile):
    figure = plot_saliency(Z, QUADRANTS, percentile=percentile, size=4)
    box = figure.axes[-1].get_window_extent()
    pixels = rendered(figure)
    below_top, middle = (
        np.flatnonzero(pixels[len(pixels) - int(y)].min(axis=1) < .7)[[0, -1]]
        for y in (box.y1 - 1, box.y0 + box.height / 2))
    pointed = [below_top[0] > middle[0] + 5, below_top[1] < middle[1] - 5]
    assert pointed == [percentile < 100] * 2


def test_no_colour_bar():
    with_bar = plot_saliency(Z, Z)
    without = plot_saliency(Z, Z, colorbar=False)
    assert len(with_bar.axes) == 3 and len(without.axes) == 2
    assert without.get_figheight() < with_bar.get_figheight()


def test_map_of_zeros_and_magenta_in_the_figure():
    maps = [Z, np.array([[np.nan, 1], [1, 1]])]
    figure = plot_saliency(Z, maps)
    assert_drawn(figure, figure.axes[1], np.ones((2, 2, 3)))
    assert_drawn(figure, figure.axes[2], [[MAGENTA, RED], [RED, RED]])


def test_the_arrays_are_left_alone(rng):
    images, maps = rng.rand(2, 2), rng.randn(2, 2)
    maps[0, 0] = np.inf
    before = images.copy(), maps.copy()
    plot_saliency(images, maps, overlay=True)
    normalize(maps)
    map_to_rgb(maps, 'rgb')
    np.testing.assert_array_equal(before[0], images)
    np.testing.assert_array_equal(before[1], maps)


# the figure

def test_nothing_is_shown_saved_or_registered(monkeypatch, tmp_path):
    import matplotlib.pyplot as pyplot
    before = pyplot.get_fignums()
    # Asking for the backend would choose one.
    settings = {name: pyplot.rcParams[name] for name in pyplot.rcParams
                if name != 'backend'}
    monkeypatch.chdir(tmp_path)
    for place, name in [(pyplot, 'show'), (Figure, 'show'),
                        (Figure, 'savefig')]:
        monkeypatch.setattr(place, name, None)
    figure = plot_saliency(Z, QUADRANTS)
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == before
    assert {name: pyplot.rcParams[name] for name in settings} == settings
    assert os.listdir(str(tmp_path)) == []


def test_pyplot_is_not_even_imported():
    code = ('import sys, runpy\n'
            'plot = runpy.run_path(sys.argv[1])["plot_saliency"]\n'
            'plot([[0.]], [[[1.]]])\n'
            'assert "matplotlib.pyplot" not in sys.modules')
    subprocess.check_call([sys.executable, '-c', code, plot.__file__])


def test_settings_of_the_user_do_not_spoil_the_picture():
    image = np.array([[0, .25], [.5, 1]])
    settings = {'figure.autolayout': True, 'image.origin': 'lower',
                'image.interpolation': 'bilinear', 'image.aspect': 'auto',
                'image.cmap': 'jet', 'axes.grid': True, 'figure.dpi': 50}
    with rc_context(settings):
        figure = plot_saliency(image, QUADRANTS, titles=['a'])
        assert_drawn(figure, figure.axes[0], np.stack([image] * 3, axis=2))
        assert_drawn(figure, figure.axes[1], map_to_rgb(QUADRANTS))
    with rc_context({'figure.constrained_layout.use': True}):
        figure = plot_saliency(image, QUADRANTS, titles=['a'])
        assert_drawn(figure, figure.axes[1], map_to_rgb(QUADRANTS))


def test_the_figure_can_be_saved_pickled_and_shown_by_a_notebook(tmp_path):
    figure = plot_saliency(Z, QUADRANTS, titles=['a'])
    path = str(tmp_path / 'maps.png')
    figure.savefig(path)
    with open(path, 'rb') as f:
        png = f.read()
    width, height = (int.from_bytes(png[i:i + 4], 'big') for i in (16, 20))
    assert (height, width) == rendered(figure).shape[:2]
    assert figure._repr_png_()[:24] == png[:24]
    again = pickle.loads(pickle.dumps(figure))
    assert again._repr_png_()[:24] == png[:24]


# errors


@pytest.mark.parametrize('call, error, message', [
    (lambda: normalize(Z, 0), ValueError,
     'normalize: expected a percentile above 0 and up to 100, got 0'),
    (lambda: normalize(Z, 101), ValueError, 'up to 100, got 101'),
    (lambda: normalize(Z, np.nan), ValueError, 'up to 100, got nan'),
    (lambda: normalize(Z, limit=0), ValueError,
     'normalize: expected a finite limit above 0, got 0'),
    (lambda: normalize(Z, limit=np.inf), ValueError, 'above 0, got inf'),
    (lambda: map_to_rgb(Z, 'sign'), ValueError,
     "map_to_rgb: expected the mode 'signed', 'absolute' or 'rgb', got "
     "'sign'"),
    (lambda: map_to_rgb(Z, 'rgb', cmap='gray'), ValueError,
     "map_to_rgb: expected no cmap in the mode 'rgb', got 'gray'"),
    (lambda: map_to_rgb(Z, layout='WH'), ValueError,
     'map_to_rgb: saliency: expected one of the layouts HW, CHW, HWC, NHW, '
     "NCHW, NHWC, got 'WH'"),
    (lambda: map_to_rgb(Z * 1j), TypeError,
     'map_to_rgb: saliency: expected an array of real numbers, got complex'),
    (lambda: map_to_rgb([['a']]), TypeError, 'real numbers, got <U1'),
    (lambda: map_to_rgb(np.zeros(3)), ValueError,
     'map_to_rgb: saliency: expected the axes HW or CHW or HWC or NHW or NCHW '
     'or NHWC, where C is 1 or 3; got an array of shape (3,)'),
    (lambda: map_to_rgb(np.zeros((1,) * 5)), ValueError, '(1, 1, 1, 1, 1)'),
    (lambda: map_to_rgb(np.zeros((0, 4))), ValueError, 'shape (0, 4)'),
    (lambda: map_to_rgb(np.zeros((2, 4, 5, 2))), ValueError, '(2, 4, 5, 2)'),
    (lambda: map_to_rgb(Z, layout='CHW'), ValueError,
     'expected the axes CHW, where C is 1 or 3; got an array of shape (2, 2)'),
    (lambda: map_to_rgb(np.zeros((4, 8, 8)), layout='CHW'), ValueError,
     'the axes CHW, where C is 1 or 3; got an array of shape (4, 8, 8)'),
    (lambda: plot_saliency(np.zeros((4, 4, 4, 4)), Z), ValueError,
     'plot_saliency: images: expected the axes HW or'),
    (lambda: plot_saliency(np.zeros((3, 4, 5)), Z), ValueError,
     'plot_saliency: images: expected a shape that tells the layout, got '
     "(3, 4, 5), which may be CHW or NHW; perhaps you meant layout='CHW'"),
    (lambda: plot_saliency(Z.astype(int), Z), TypeError,
     'plot_saliency: expected images of uint8, or floats from 0 to 1, got '
     'int'),
    (lambda: plot_saliency(Z + 255, Z), ValueError,
     'got floats from 255 to 255; perhaps you meant images / 255'),
    (lambda: plot_saliency(Z - .5, Z), ValueError,
     'got floats from -0.5 to -0.5; perhaps you meant images / 255, or images '
     '+ mean'),
    (lambda: plot_saliency(Z + np.nan, Z), ValueError, 'from nan to nan'),
    (lambda: plot_saliency(ZEROS, ZEROS[:1]), ValueError,
     'plot_saliency: maps[0]: expected as many maps as images, 2, each of 4 x '
     '5 pixels, as the images are, with 1 or 3 channels or without; got an '
     'array of shape (1, 4, 5)'),
    (lambda: plot_saliency(ZEROS, {'a': ZEROS, 'b': ZEROS[:, 1:]}), ValueError,
     "plot_saliency: maps['b']: expected as many maps as images"),
    (lambda: plot_saliency(ZEROS, [np.zeros((2, 4, 5, 2))]), ValueError,
     'shape (2, 4, 5, 2)'),
    (lambda: plot_saliency(Z, [np.array([['a']])]), TypeError,
     'plot_saliency: maps[0]: expected an array of real numbers'),
    (lambda: plot_saliency(Z, iter([Z])), TypeError,
     'plot_saliency: expected maps in a dict, a list or an array, got '
     'list_iterator'),
    (lambda: plot_saliency(Z, []), ValueError,
     'plot_saliency: expected at least one map, got none'),
    (lambda: plot_saliency(Z, Z, titles=['a', 'b']), ValueError,
     "plot_saliency: expected 1 titles, one for each map, got 2: ['a', 'b']"),
    (lambda: plot_saliency(ZEROS, ZEROS, labels=['a']), ValueError,
     "plot_saliency: expected 2 labels, one for each image, got 1: ['a']"),
    (lambda: plot_saliency(Z, Z, size=0), ValueError,
     'plot_saliency: expected a size in inches above 0, got 0'),
    (lambda: plot_saliency(Z, Z, mode='positive'), ValueError,
     "got 'positive'"),
    (lambda: plot_saliency(Z, Z, percentile=0), ValueError, 'got 0'),
    (lambda: plot_saliency(Z, Z, cmap='no such map'), ValueError,
     'no such map'),
])
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


def test_a_theano_variable_is_no_map():
    import theano.tensor as T
    x = T.matrix('x')
    with pytest.raises(TypeError, match='got TensorVariable'):
        plot_saliency(Z, x)
    with pytest.raises(TypeError, match='expected an array of real numbers'):
        plot_saliency(Z, [x])


def test_without_matplotlib(monkeypatch):
    import runpy
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError) as error:
        runpy.run_path(plot.__file__)
    assert 'pip install "gradmod[examples]"' in str(error.value)


def test_docstrings_have_what_they_promise():
    for function in plot_saliency, map_to_rgb, normalize:
        for word in ('Parameters', 'Returns', 'Examples', '>>>'):
            assert word in function.__doc__
    assert set(plot.__all__) == {'plot_saliency', 'map_to_rgb', 'normalize'}


# the grid, in whole dots from the upper left corner

MARGIN, GAP = 13, 12  # at 160 dots to the inch


def boxes(figure):
    """The left, the top, the width and the height of all axes, in dots."""
    height = figure.bbox.height
    return [[int(round(d)) for d in (box.x0, height - box.y1, box.width,
                                     box.height)]
            for box in (axes.get_window_extent() for axes in figure.axes)]


@pytest.mark.parametrize('colorbar', [True, False])
def test_grid(colorbar):
    figure = plot_saliency(ZEROS, [ZEROS, ZEROS], layout='NHW',
                           colorbar=colorbar)
    w, h = 160, 128
    x = [MARGIN + i * (w + GAP) for i in range(3)]
    y = [MARGIN + i * (h + GAP) for i in range(2)]
    images = [[left, top, w, h] for top in y for left in x]
    bar = [x[1], y[1] + h + MARGIN, 2 * w + GAP, GAP]
    assert boxes(figure) == images + [bar] * colorbar
    size = figure.get_size_inches() * figure.dpi
    assert [int(d) for d in size] == [
        x[2] + w + MARGIN, y[1] + h + MARGIN + 56 * colorbar]


def test_the_bar_below_small_maps_is_an_inch_wide():
    figure = plot_saliency(Z, Z, size=.1)
    image, map, bar = boxes(figure)
    assert map == [MARGIN + 16 + GAP, MARGIN, 16, 16]
    assert bar == [map[0], MARGIN + 16 + MARGIN, 160, GAP]
    assert int(figure.bbox.width) == bar[0] + 160 + MARGIN


def test_grid_around_texts():
    figure = plot_saliency(ZEROS[:, :2, :2], ZEROS[:, :2, :2], layout='NHW',
                           titles=['a title that is long'],
                           labels=['some\nlines\nof\ntext', 'b'], size=.2)
    renderer = figure.canvas.get_renderer()
    title, label = (
        text.get_window_extent(renderer) for text in
        (figure.axes[1].title, figure.axes[0].yaxis.label))
    dx, dy = (int(np.ceil(d)) + MARGIN for d in (title.width, label.height))
    top, left = (int(np.ceil(d)) + MARGIN for d in (title.height, label.width))
    x0 = MARGIN + left + (dx - GAP - 32) // 2
    y0 = MARGIN + top + (dy - GAP - 32) // 2
    assert boxes(figure)[:4] == [
        [x0, y0, 32, 32], [x0 + dx, y0, 32, 32],
        [x0, y0 + dy, 32, 32], [x0 + dx, y0 + dy, 32, 32]]
    bar = boxes(figure)[4]
    assert bar == [x0 + dx, MARGIN + top + 2 * dy - GAP + MARGIN, 160, GAP]


def test_what_is_no_array_of_numbers_and_no_list_of_texts():
    for values in ['a', 'b'], [1j], [None]:
        with pytest.raises(TypeError, match='normalize: expected an array of '
                           'real numbers, got'):
            normalize(values)
    for name in 'titles', 'labels':
        for texts in 'ab', 3, list:
            with pytest.raises(TypeError, match='plot_saliency: expected a '
                               'list of ' + name):
                plot_saliency(ZEROS, [ZEROS] * 2, layout='NHW', **{name: texts})


@pytest.mark.parametrize('size', [np.inf, np.nan, -1, '1', None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match='expected a size in inches above 0'):
        plot_saliency(Z, Z, size=size)


def test_maps_of_three_columns_are_no_channels(rng):
    images, maps = np.zeros((2, 1, 4, 3)), rng.randn(2, 4, 3)
    figure = plot_saliency(images, maps, layout='NCHW')
    for axes, map in zip(figure.axes[1:4:2], maps):
        assert_drawn(figure, axes, map_to_rgb(map))


@pytest.mark.parametrize('mode, alignments', [
    ('signed', ['left', 'center', 'right']), ('absolute', ['left', 'right'])])
def test_what_is_below_the_bar_does_not_stick_out(mode, alignments):
    bar = plot_saliency(Z, QUADRANTS, mode=mode).axes[-1]
    assert [t.get_ha() for t in bar.get_xticklabels()] == alignments


def test_what_only_numbers_tell():
    assert plot_saliency([[0.]], [[[1.]]]).dpi == 160
    values = np.ones(1001)
    values[:6] = 1e6  # one more than the percentile leaves out
    assert (normalize(values) == 1).sum() == 6
    image = plot_saliency(np.uint8([[0, 127], [254, 255]]), Z).axes[0]
    np.testing.assert_allclose(image.images[0].get_array()[..., 1],
                               [[0, 127 / 255], [254 / 255, 1]])
    with pytest.raises(ValueError, match='from 1.5 to 1.5'):
        plot_saliency(Z + 1.5, Z)
    for spine in image.spines.values():
        np.testing.assert_allclose(spine.get_edgecolor()[:3], .7)
