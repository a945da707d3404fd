import os
import pickle
import re
import runpy
import subprocess
import sys
import warnings

import numpy as np
import pytest
import theano.tensor as T
from matplotlib import rc_context
from matplotlib.image import imread

from gradmod import plot
from gradmod.plot import map_to_rgb, normalize, plot_saliency, plot_words

# The colours that the others are between, by their names in hexadecimal.
ANCHORS = {
    kind: np.array([[int(name[i:i + 2], 16) / 255 for i in (0, 2, 4)]
                    for name in names.split()])
    for kind, names in [('signed', '1450a0 7db3dc ffffff ee8a72 b3101f'),
                        ('absolute', 'ffffff b39bd8 4a148c')]}
BLUE, _, WHITE, _, RED = ANCHORS['signed']
PURPLE, BLACK, GREY, MAGENTA = ANCHORS['absolute'][2], 0 * RED, .5, [1, 0, 1]
rng = np.random.RandomState(0)  # seeded anew before each test
Z = np.zeros((2, 2))
ZEROS = np.zeros((2, 4, 5))
IMAGE = np.array([[0, .25], [.5, 1]])  # right way up, known pictures
QUADRANTS = np.array([[2., -2.], [0., 1.]])
for array in Z, ZEROS, IMAGE, QUADRANTS:
    array.setflags(write=False)  # arguments are left alone


@pytest.fixture(autouse=True)
def no_warnings():
    # Theano turns numpy's off.
    with warnings.catch_warnings(), np.errstate(all='warn', under='ignore'):
        warnings.simplefilter('error')
        yield


def rendered(figure):
    """The pixels of a figure, as a person sees them: from the upper left."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.


def boxes(figure):
    """The left, the top, the width and the height of all axes, in dots."""
    exact = [(box.x0, figure.bbox.height - box.y1, box.width, box.height)
             for box in (axes.get_window_extent() for axes in figure.axes)]
    whole = [[int(round(d)) for d in box] for box in exact]
    for axes, box, rounded in zip(figure.axes, exact, whole):
        if axes.images:  # drawn, a pointed bar becomes shorter
            np.testing.assert_allclose(rounded, box, atol=.01)
    return whole


def assert_drawn(figure, *images, picture=None):
    """The axes show these, grey or HWC, each pixel as whole dots."""
    picture = rendered(figure) if picture is None else picture
    for (left, top, width, height), image in zip(boxes(figure), images):
        # All but the frame, of 3 dots.
        image = np.asarray(image)
        image = image if image.ndim == 3 else np.stack([image] * 3, axis=2)
        scale = width // image.shape[1]
        np.testing.assert_allclose(
            picture[top:top + height, left:left + width][3:-3, 3:-3],
            np.kron(image, np.ones((scale, scale, 1)))[3:-3, 3:-3],
            atol=1.01 / 255)


@pytest.mark.parametrize('values, kwargs, expected', [
    ([[-4, 0], [2, 1]], {'percentile': 100}, [[-1, 0], [.5, .25]]),
    ([1, 4], {'percentile': 100}, [.25, 1]),  # not stretched to 0..1
    ([2, -3, 1, 4, 0], {'percentile': 87.5},  # in the middle of 3 and 4
     np.array([2, -3, 1, 3.5, 0]) / 3.5),
    ([3, -6] + [0] * 998, {}, [.5, -1] + [0] * 998),  # the percentile is 0
    ([1e6] * 5 + [1] * 996, {}, [1] * 1001),  # which leaves out 5 of 1000
    ([1e6] * 6 + [-1] * 995, {}, [1] * 6 + [-1e-6] * 995),
    ([-3, 0, 1, 5], {'limit': np.uint8(2)}, [-1, 0, .5, 1]),
    (Z, {}, Z), ([], {}, []), ([np.nan, np.inf], {}, [np.nan, np.nan]),
    ([np.nan, np.inf, -np.inf, 2, -1], {'percentile': 100},
     [np.nan, np.nan, np.nan, 1, -.5]),
    ([False, True], {}, [0, 1]),
    (np.int8([-128, 64]), {'limit': 128}, [-1, .5]),
    ([5e-324, 0], {'percentile': 100}, [1, 0]), ([1e308, -1e308], {}, [1, -1]),
    ([1e308, 1e-320, 1e-320], {'percentile': 1}, [1, 1, 1])])
def test_normalize(values, kwargs, expected):
    got = normalize(values, **kwargs)
    assert got.dtype == float
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('kind', ['signed', 'absolute'])
def test_colours(kind):
    values = np.linspace(-1, 1, 1001)
    part = (values + 1) / 2 if kind == 'signed' else abs(values)
    level = np.minimum((257 * part).astype(int), 256) / 256
    places = np.linspace(0, 1, len(ANCHORS[kind]))
    np.testing.assert_allclose(
        map_to_rgb([7 * values], kind, 100)[0],
        np.stack([np.interp(level, places, c) for c in ANCHORS[kind].T], 1))


def test_channels():
    hwc = np.array([[[1, 2, 1], [3, -5, 2], [0, -2, 0]]])
    for kwargs, reduced in [({}, [4, 0, -2]), ({'limit': 8}, [4, 0, -2]),
                            ({'kind': 'absolute'}, [2, 5, 2])]:
        np.testing.assert_array_equal(
            map_to_rgb(hwc, data_format='channels_last', **kwargs),
            map_to_rgb([reduced], **kwargs))
    np.testing.assert_allclose(  # an image around grey
        map_to_rgb([[[0, 0, 0], [2, 0, -2], [1, 1, 1]]], 'rgb', 100,
                   data_format='channels_last'),
        [[[.5] * 3, [1, .5, 0], [.75] * 3]])


def test_small_types_do_not_overflow():
    for value in np.int8(100), np.float16(6e4):
        assert (map_to_rgb(np.full((2, 2, 3), value)) == RED).all()
    assert (map_to_rgb(np.int8([[-128]]), 'absolute') == PURPLE).all()


@pytest.mark.parametrize('kind', ['signed', 'absolute', 'rgb'])
@pytest.mark.parametrize('pixel', [
    [1, np.nan, 1], [1, np.inf, 1], [1, 1, -np.inf], [np.inf, -np.inf, 0]])
def test_what_is_not_finite_is_magenta(kind, pixel):
    hwc = np.ones((2, 2, 3))
    expected = map_to_rgb(hwc, kind)
    expected[0, 1] = MAGENTA
    hwc[0, 1] = pixel
    np.testing.assert_array_equal(map_to_rgb(hwc, kind), expected)


def test_maps_share_a_limit():
    got = map_to_rgb([[[1., -1]], [[10, -5]]], limit=10)
    assert (got[0, 0, 0] > RED).all()
    np.testing.assert_allclose(got[1, 0, 0], RED)


def test_cmap():
    got = map_to_rgb([[-1, 0, 1]], cmap='gray', percentile=100)
    np.testing.assert_allclose(got, [[BLACK, [GREY] * 3, WHITE]], atol=.003)
    got = map_to_rgb([[0, -1]], 'absolute', cmap=plot.COLOURS['rgb'])
    np.testing.assert_allclose(got, [[BLACK, WHITE]])
    for colours in plot.COLOURS.values():  # none has magenta
        all_of_it = colours(np.arange(257))[:, :3]
        assert abs(all_of_it - MAGENTA).max(axis=1).min() > .3


AXES = dict(HW=None, NHW=None, CHW='channels_first', NCHW='channels_first',
            HWC='channels_last', NHWC='channels_last')


def arranged(array, axes, have='NHWC'):
    """An array, or the first of those in it, with other axes."""
    index = tuple(slice(None) if axis in axes else 0 for axis in have)
    kept = [axis for axis in have if axis in axes]
    return array[index].transpose([kept.index(axis) for axis in axes])


@pytest.mark.parametrize('image_axes', AXES)
def test_axes(image_axes):
    images, maps = rng.rand(2, 4, 5, 3), rng.randn(2, 4, 5, 3)
    images = images[..., :3 if 'C' in image_axes else 1]
    n = 2 if 'N' in image_axes else 1
    for axes in [axes for axes in AXES if ('N' in axes) == (n == 2)]:
        array = arranged(maps, axes)
        expected = [map_to_rgb(map if 'C' in axes else map[..., 0])
                    for map in maps[:n]]
        got = map_to_rgb(array, data_format=AXES[axes])
        np.testing.assert_array_equal(got if n == 2 else [got], expected)
        if axes != 'CHW':  # three maps, for all it knows
            np.testing.assert_array_equal(map_to_rgb(array), got)
        figure = plot_saliency(arranged(images, image_axes), [array],
                               data_format=AXES[image_axes], colorbar=False)
        shown = [[np.broadcast_to(image, (4, 5, 3)), map]
                 for image, map in zip(images, expected)]
        assert len(figure.axes) == 2 * n
        assert_drawn(figure, *sum(shown, []))


def test_where_the_channels_are():
    for shape, data_format, expected in [
            ((1, 4, 5), None, (4, 5)), ((4, 5, 1), None, (4, 5)),
            ((4, 3), 'channels_first', (4, 3)),
            ((3, 4, 3), 'channels_first', (4, 3)),
            ((3, 4, 3), 'channels_last', (3, 4))]:
        got = map_to_rgb(np.zeros(shape), data_format=data_format)
        assert got.shape == expected + (3,)
    image, maps = rng.rand(3, 3), rng.randn(3, 3, 3)
    for data_format in 'channels_first', 'channels_last':  # as of images
        figure = plot_saliency(image, [maps], data_format=data_format)
        assert_drawn(figure, image, map_to_rgb(maps, data_format=data_format))
    maps = rng.randn(2, 4, 3)  # three columns are no channels
    figure = plot_saliency(np.zeros((2, 4, 3, 1)), maps)
    assert_drawn(figure, np.zeros((4, 3)), map_to_rgb(maps[0]),
                 np.zeros((4, 3)), map_to_rgb(maps[1]))


def test_lists_of_arrays():
    images, maps = rng.rand(2, 3, 4, 5), rng.randn(2, 3, 4, 5)
    expected = rendered(plot_saliency(images, {'a': maps}))
    for sequence in list, tuple, np.ndarray.tolist:
        figure = plot_saliency(sequence(images), {'a': sequence(maps)})
        np.testing.assert_array_equal(rendered(figure), expected)


def test_up_to_32_rows_are_images_and_columns_are_methods():
    images, a, b = rng.rand(3, 32, 2, 2)
    labels = [f'label {i}' for i in range(32)]
    figure = plot_saliency(images, {'a': a, 'b': b}, labels=labels, size=.2)
    assert_drawn(figure, *sum([
        [images[i], map_to_rgb(a[i]), map_to_rgb(b[i])] for i in range(32)
    ], []))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ['image', 'a', 'b'] + [''] * (3 * 31 + 1)
    assert [axes.get_ylabel() for axes in figure.axes] == sum([
        [label, '', ''] for label in labels], []) + ['']


@pytest.mark.parametrize('maps, titles, shown', [
    (Z, None, ['', '']), ([Z, Z], None, ['', '', '']),
    ({1: Z}, None, ['image', '1']), ((Z, Z), 'ab', ['image', 'a', 'b']),
    ([Z, Z], ['a', 2], ['image', 'a', '2']), ({'a': Z}, 'b', ['image', 'b'])])
def test_titles(maps, titles, shown):
    figure = plot_saliency(Z, maps, titles, colorbar=False)
    assert [axes.get_title() for axes in figure.axes] == shown


@pytest.mark.parametrize('image, shown', [
    (np.uint8([[0, 127], [254, 255]]), np.array([[0, 127], [254, 255]]) / 255),
    (IMAGE, IMAGE), (np.float32(IMAGE), IMAGE), (IMAGE > .3, IMAGE > .3),
    (Z, Z), (Z + .5, Z + .5), (Z + 1, Z + 1),  # not stretched
    (np.float32([[-1e-6, 1 + 1e-6]] * 2), [[0, 1]] * 2)])  # nor an error
def test_a_known_picture_is_neither_flipped_nor_transposed(
        image, shown, caplog):
    figure = plot_saliency(image, [QUADRANTS, Z], percentile=100)
    half = ANCHORS['signed'][3]
    assert_drawn(figure, shown, [[RED, BLUE], [WHITE, half]], Z + 1)
    np.testing.assert_allclose(  # of which the picture has 8 bits
        figure.axes[0].images[0].get_array()[..., 0], shown)
    assert not caplog.records  # matplotlib has a word on what is beyond 0..1


@pytest.mark.parametrize('overlay, opacity', [
    (True, .7), (np.True_, .7), (False, 1), (0, 0), (.5, .5), (1, 1)])
def test_overlay(overlay, opacity):
    image = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]], float)
    grey = np.array([[.299, .587], [.114, 1]])[..., np.newaxis]
    figure = plot_saliency(image, QUADRANTS, overlay=overlay)
    assert_drawn(figure, image,
                 opacity * map_to_rgb(QUADRANTS) + (1 - opacity) * grey)


@pytest.mark.parametrize('kwargs, low, high, end, colours, pointed', [
    ({}, -1, 1, 'P99.5', [BLUE, WHITE, RED], [1, 1]),
    ({'percentile': 100}, -1, 1, 'max', [BLUE, WHITE, RED], [0, 0]),
    ({'limit': .25}, -.25, .25, '0.25', [BLUE, WHITE, RED], [1, 1]),
    ({'kind': 'absolute', 'limit': np.float32(3), 'percentile': 100},
     0, 3, '3', [WHITE, PURPLE], [0, 1]),
    ({'kind': 'rgb'}, -1, 1, 'P99.5', [BLACK, GREY, WHITE], [1, 1]),
    ({'cmap': 'gray'}, -1, 1, 'P99.5', [BLACK, GREY, WHITE], [1, 1])])
def test_colour_bar(kwargs, low, high, end, colours, pointed):
    figure = plot_saliency(Z, QUADRANTS, size=4, **kwargs)
    bar, (_, top, _, height) = figure.axes[-1], boxes(figure)[-1]
    ticks = [low, 0, high] if low else [0, high]
    assert list(bar.get_xticks()) == ticks
    assert [(t.get_text(), t.get_ha()) for t in bar.get_xticklabels()] == (
        [('\u2212' + end, 'left'), ('0', 'center'), (end, 'right')] if low
        else [('0', 'left'), (end, 'right')])  # so that none sticks out
    strip = rendered(figure)[top:top + height]
    inwards = np.linspace(3, -3, len(ticks))  # away from the frame
    for tick, inward, colour in zip(ticks, inwards, colours):
        x = bar.transData.transform((tick, 0))[0] + inward
        np.testing.assert_allclose(strip[6, int(x)], colour, atol=.06)
    upper, middle = (np.flatnonzero(strip[y].min(axis=1) < .9)[[0, -1]]
                     for y in (1, 6))
    assert [upper[0] > middle[0] + 5, upper[1] < middle[1] - 5] == pointed
    assert upper[0] < middle[0] + 30


def assert_apart(figure, *texts):
    """The axes and these are inside of the figure, and none on another."""
    figure.canvas.draw()
    extents = [part.get_window_extent() for part in (*figure.axes, *texts)]
    for i, a in enumerate(extents):
        assert 0 <= a.x0 and a.x1 <= figure.bbox.x1
        assert 0 <= a.y0 and a.y1 <= figure.bbox.y1
        for b in extents[:i]:
            assert (a.x0 >= b.x1 or b.x0 >= a.x1
                    or a.y0 >= b.y1 or b.y0 >= a.y1)


@pytest.mark.parametrize('colorbar', [True, False])
@pytest.mark.parametrize('titles, labels', [
    (None, None), (['longer than the colour bar'] * 2, None),
    (None, ['some\nlines\nof\ntext'] * 2),
    (['longer than the colour bar'] * 2, ['label'] * 2)])
def test_grid(colorbar, titles, labels):
    figure = plot_saliency(ZEROS, [ZEROS] * 2, titles, labels, size=.3,
                           colorbar=colorbar)
    left, top, w, h = np.reshape(boxes(figure)[:6], (2, 3, 4)).T
    assert (w == 50).all() and (h == 40).all() and figure.dpi >= 160
    assert (left.T == left[:, 0]).all() and (top == top[0]).all()
    assert len(figure.axes) == 6 + colorbar
    across, down = np.diff(left[:, 0]) - 50, np.diff(top[0]) - 40
    assert titles or (9 < across).all() and (across < 16).all()
    assert labels or (9 < down).all() and (down < 16).all()
    assert titles or abs(2 * (top[0, 0] - 13) - (down[0] - 12)) < 4
    end = figure.bbox.max - (left[2, 0] + 50, top[0, 1] + 40)
    if colorbar:  # below the maps
        x, y, width, height = boxes(figure)[6]
        assert x == left[1, 0] and y > top[0, 1] + 40
        assert width >= 160 and 9 < height < 16
        assert 30 < figure.bbox.height - y - height < 50
    else:
        assert labels or not titles or abs(left[0, 0] - end[0]) < 3
        assert labels or titles or 9 < left[0, 0] < 16 and np.ptp(
            [left[0, 0], top[0, 0], end[1]]) < .5
    assert_apart(figure, *[text for axes in figure.axes for text in (
        axes.title, axes.yaxis.label) if text.get_text()])
    assert not figure.texts  # by which it measured
    for spine in figure.axes[0].spines.values():
        np.testing.assert_allclose(spine.get_edgecolor()[:3], .7)


def test_an_image_is_an_inch_by_default():
    assert boxes(plot_saliency(ZEROS, ZEROS))[0][2] == 160


@pytest.mark.parametrize('h, w, size', [
    (4, 8, .77), (9, 2, 1.7), (2, 7, .3), (28, 28, 2), (37, 101, 1.1),
    (250, 200, 1)])  # more pixels than dots: all of them are drawn
def test_each_pixel_is_as_many_dots_in_a_figure_and_in_a_file(
        h, w, size, tmp_path):
    image = rng.randint(256, size=(h, w, 3)).astype('uint8')
    figure = plot_saliency(image, [image / 256 - .5], ['a'], ['b'], size=size)
    for _, _, width, height in boxes(figure)[:2]:
        assert width / w == height / h == width // w
        assert abs(max(width, height) - size * figure.dpi) < .01
    assert figure.dpi >= 160 - 1e-9
    figure.savefig(str(tmp_path / 'maps.png'))
    for picture in rendered(figure), imread(str(tmp_path / 'maps.png')):
        assert_drawn(figure, image / 255, map_to_rgb(image / 256 - .5),
                     picture=picture[..., :3])


def test_nothing_is_shown_saved_or_registered(tmp_path):
    code = """
import matplotlib, runpy, sys
before = dict(matplotlib.rcParams)
figure = runpy.run_path(sys.argv[1])['plot_saliency']([[0.]], [[[1.]]])
figure.canvas.draw()
assert dict(matplotlib.rcParams) == before
assert 'matplotlib.pyplot' not in sys.modules
"""
    subprocess.check_call([sys.executable, '-c', code, plot.__file__],
                          cwd=str(tmp_path),
                          env=dict(os.environ, MPLBACKEND='agg'))
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize('settings', [
    {'figure.autolayout': True, 'image.origin': 'lower', 'image.cmap': 'jet',
     'image.interpolation': 'bilinear', 'image.aspect': 'auto',
     'axes.grid': True, 'figure.dpi': 50},
    {'figure.constrained_layout.use': True, 'savefig.facecolor': 'black',
     'figure.facecolor': 'black', 'text.color': 'white'}])
def test_settings_of_the_user_do_not_spoil_the_picture(settings):
    with rc_context(settings):
        figure = plot_saliency(IMAGE, QUADRANTS, titles=['a'])
        assert_drawn(figure, IMAGE, map_to_rgb(QUADRANTS))
        figure.set_size_inches(10, 3)
        figure.canvas.draw()
    box = figure.axes[1].get_window_extent()
    assert abs(box.width - box.height) < .01
    # whose fonts and colours count, for texts and pages alike
    color = settings.get('text.color', 'black')
    assert figure.axes[1].title.get_color() == color


def test_the_fonts_of_the_user():
    with rc_context({'font.size': 30, 'font.sans-serif': ['DejaVu Sans Mono'],
                     'axes.titlesize': 'x-large', 'xtick.labelsize': 30,
                     'axes.labelweight': 'bold', 'axes.labelpad': 40,
                     'xtick.major.pad': 20, 'xtick.major.size': 15}):
        figure = plot_saliency(ZEROS, ZEROS, ['iiiiiiiiiiiiiiiiiiiiiiiiiiii'],
                               ['iiiiiiiiiiiiiii', 'b'], size=.3)
        title, label = figure.axes[1].title, figure.axes[0].yaxis.label
        assert_apart(figure, title, label, *figure.axes[-1].get_xticklabels())
        assert title.get_fontname() == 'DejaVu Sans Mono'
        figure = plot_words([['iiiiiiiiiiiiiiiii', 'b']], [[1, 2]], ['iiiiiiii'])
        assert_apart(figure, *[
            text.get_bbox_patch() or text for text in figure.texts])


def test_the_figure_can_be_pickled_and_shown_by_a_notebook():
    figure = plot_saliency(Z, QUADRANTS, titles=['a'])
    assert isinstance(figure, plot.Figure)
    png = figure._repr_png_()
    width, height = (int.from_bytes(png[i:i + 4], 'big') for i in (16, 20))
    assert png[1:4] == b'PNG'
    assert (height, width) == rendered(figure).shape[:2]
    assert pickle.loads(pickle.dumps(figure))._repr_png_()[:24] == png[:24]


def lines_and_colours(axes):
    """The lines of the channels, from 0, the bottom, to 1, and the colours."""
    lines = []
    for line in axes.lines:
        x, y = line.get_data()
        if len(x) > 2:
            np.testing.assert_array_equal(x, np.arange(len(x)) + .5)
            lines.append(y)
    for i, image in enumerate(axes.images):  # one below the other
        assert image.get_extent() == [0, len(lines[0]), i + 1, i]
    assert axes.get_ylim() == (len(axes.images), 0) == (len(lines), 0)
    assert axes.get_xlim() == (0, len(lines[0]))
    return ([(i + .9 - line) / .8 for i, line in enumerate(lines)],
            np.concatenate([image.get_array() for image in axes.images]))


@pytest.mark.parametrize('shape, last, overlay, kwargs', [
    ('NCT', False, 1, {}), ('NTC', False, 1, {'kind': 'absolute'}),
    ('NTC', True, 1, {'limit': 2}), ('NT', True, 1, {'cmap': 'gray'}),
    ('N1T', False, 1, {'percentile': 50}), ('NT1', False, .25, {})])
def test_signals(shape, last, overlay, kwargs):
    signals, maps = 100 * rng.randn(2, 4, 7) + 10, rng.randn(2, 4, 7)
    if 'C' not in shape:
        maps = maps[:, :1]
    other = 2 * abs(maps)
    given = {'NT': lambda m: m[:, 0], 'NTC': lambda m: m.transpose(0, 2, 1),
             'NT1': lambda m: m.transpose(0, 2, 1)}.get(shape, lambda m: m)
    figure = plot_saliency(
        signals.transpose(0, 2, 1) if last else signals,
        {'a': given(maps), 'b': given(other)}, labels=['c', 'd'],
        data_format='channels_last' if last else 'channels_first',
        spatial_dims=1, overlay=overlay, **kwargs)
    assert len(figure.axes) == 2 * 2 + 1
    for i, axes in enumerate(figure.axes[:4]):
        row, column = divmod(i, 2)
        lines, colours = lines_and_colours(axes)
        for line, channel in zip(lines, signals[row]):
            low, high = min(channel), max(channel)
            np.testing.assert_allclose(line, (channel - low) / (high - low))
        # all channels of a map have one scale
        rgb = map_to_rgb([maps, other][column][row], **kwargs)
        np.testing.assert_allclose(colours, np.broadcast_to(
            overlay * rgb + 1 - overlay, (4, 7, 3)))
        assert axes.get_title() == ('' if row else 'ab'[column])
        assert axes.get_ylabel() == ('' if column else 'cd'[row])


def test_a_signal_without_channels_flat_or_of_integers():
    maps = {'a': [1, -1, 0]}
    for signal, line in [([1, 2, 1], [0, 1, 0]), ([4, 4, 4], [0, 0, 0]),
                         (np.int8([-128, 127, -128]), [0, 1, 0])]:
        figure = plot_saliency(signal, maps, spatial_dims=1, percentile=100)
        got, colours = lines_and_colours(figure.axes[0])
        np.testing.assert_allclose(got, [line])
        np.testing.assert_allclose(colours, [[RED, BLUE, WHITE]])


@pytest.mark.parametrize('length, size, width, way', [
    (7, 1, 69 * 7, 'nearest'), (350, 1, 350, 'nearest'),
    (300, 1, 600, 'nearest'), (100, .5, 200, 'nearest'),
    (5000, 1, 480, 'antialiased')])
def test_the_size_of_signals(length, size, width, way):
    signals = np.zeros((2, 3, length))
    figure = plot_saliency(signals, [signals] * 2, ['a', 'b'], size=size,
                           spatial_dims=1)
    a, b, *_, bar = boxes(figure)
    assert [box[2:] for box in boxes(figure)[:4]] == [[width, 240 * size]] * 4
    assert bar[0] == a[0] and bar[2] == b[0] + width - a[0]  # below all maps
    assert_apart(figure, figure.axes[0].title, figure.axes[1].title)
    assert {image.get_interpolation() for image in figure.axes[0].images} == {
        way}


def test_chosen_slices():
    volumes, maps = rng.rand(2, 1, 6, 4, 5), rng.randn(2, 1, 6, 4, 5)
    figure = plot_saliency(volumes, {'a': maps}, labels=['b', 'c'],
                           slices=[4, 0, -1])
    shown = []
    for i in 0, 1:  # one scale for all slices of a volume
        rgb = map_to_rgb(maps[i].reshape(24, 5)).reshape(6, 4, 5, 3)
        shown += sum([[volumes[i, 0, d], rgb[d]] for d in (4, 0, 5)], [])
    assert_drawn(figure, *shown)
    assert [axes.get_ylabel() for axes in figure.axes[:-1:2]] == [
        f'{label}\nslice {d}' for label in 'bc' for d in (4, 0, 5)]
    figure = plot_saliency(volumes, maps, limit=3, slices=range(1))
    assert_drawn(figure, volumes[0, 0, 0], map_to_rgb(maps[0, 0, 0], limit=3))
    assert figure.axes[0].get_ylabel() == 'slice 0'


def test_the_strongest_slices():
    volumes, a = np.zeros((2, 1, 9, 2, 2)), np.zeros((2, 9, 2, 2))
    a[0, 5], a[0, 2], a[0, 7, 0, 0], a[0, 8, 0, 0] = -4, 3, 2, np.nan
    a[1, 3], a[1, 4, 0, 0] = 1, .5
    b = np.zeros((2, 9, 2, 2))
    b[0, 0], b[1, 8] = 1e-9, -1e9  # each map counts by its own scale
    for maps, slices, want in [
            ([a], 2, [2, 5, 3, 4]), ([a], None, [2, 5, 7, 0, 3, 4]),
            ([a, b], 2, [0, 5, 3, 8]), ([a], 99, list(range(9)) * 2)]:
        figure = plot_saliency(volumes, maps, slices=slices)
        column = figure.axes[:-1:1 + len(maps)]
        assert [axes.get_ylabel() for axes in column] == [
            f'slice {d}' for d in want]


@pytest.mark.parametrize('axes', ['NCDHW', 'NDHWC', 'DHWC', 'CDHW', 'DHW'])
def test_axes_of_volumes(axes):
    volumes, maps = rng.rand(2, 4, 5, 6, 3), rng.randn(2, 4, 5, 6, 3)
    figure = plot_saliency(
        *[arranged(array, axes, 'NDHWC') for array in (volumes, maps)],
        slices=[3], spatial_dims=None if len(axes) == 5 else 3,
        data_format={'DHWC': 'channels_last',
                     'CDHW': 'channels_first'}.get(axes))
    rgb = map_to_rgb(maps[0].reshape(20, 6, 3) if 'C' in axes
                     else maps[0, ..., 0].reshape(20, 6)).reshape(4, 5, 6, 3)
    image = volumes[0, 3] if 'C' in axes else volumes[0, 3, ..., 0]
    assert_drawn(figure, image, rgb[3])
    assert len(figure.axes) == 1 + 2 * (2 if 'N' in axes else 1)


@pytest.mark.parametrize('kwargs', [
    {}, {'kind': 'absolute'}, {'limit': 2}, {'percentile': 50},
    {'cmap': 'gray'}])
def test_words(kwargs):
    words = [['a', 'b', 'c'], ['d'], list('efghi')]
    maps = [rng.randn(len(sentence), 4) for sentence in words]
    numbers = [abs(map).max(axis=1) if 'kind' in kwargs else map.sum(axis=1)
               for map in maps]
    figure = plot_words(words, maps, labels=['x', '', 'z'], **kwargs)
    options = dict({'percentile': 100}, **kwargs)
    expected = []
    for sentence, values in zip(words, numbers):
        for word, colour in zip(sentence, map_to_rgb([values], **options)[0]):
            dark = .299 * colour[0] + .587 * colour[1] + .114 * colour[2] < .5
            expected.append((word, colour, 'white' if dark else 'black'))
    drawn = [text for text in figure.texts if text.get_bbox_patch()]
    for text, (word, colour, ink) in zip(drawn, expected):
        assert (text.get_text(), text.get_color()) == (word, ink)
        np.testing.assert_allclose(
            text.get_bbox_patch().get_facecolor()[:3], colour)
    assert [text.get_text() for text in figure.texts
            if text not in drawn] == ['x', '', 'z'] and len(drawn) == 9
    assert plot_words(words, numbers, ['x', '', 'z'],
                      **kwargs).html == figure.html


def test_words_as_html():
    words = [['<b>', '"&', 'd\u00e9j\u00e0'], ['$x$', 'nan']]
    figure = plot_words(words, [[2, -1, 0], [1e-4, np.nan]], ['<i>', ''])

    def span(title, background, colour, word):
        return (f'<span title="{title}" style="background: {background}; '
                f'color: {colour}; padding: 0 .2em">{word}</span>')
    assert figure.html == figure._repr_html_() == '\n'.join([
        ' '.join(['<p><b>&lt;i&gt;</b>',
                  span('2', '#b3101f', 'white', '&lt;b&gt;'),
                  span('-1', '#7db3dc', 'black', '&quot;&amp;'),
                  span('0', '#ffffff', 'black', 'd&#233;j&#224;')]) + '</p>',
        '<p>' + span('0.0001', '#b3101f', 'white', '$x$') + ' '
        + span('nan', '#ff00ff', 'white', 'nan') + '</p>'])
    assert plot_saliency(Z, Z)._repr_html_() is None


@pytest.mark.parametrize('colorbar', [True, False])
def test_lines_of_words(colorbar):
    words = [('a long sentence of words that goes on and on, ' * 3).split(),
             ['$5', 'or', '$6'], ['an-endless-word-' * 9], ['two\nlines']]
    maps = [np.linspace(-1, 1, len(sentence)) for sentence in words]
    figure = plot_words(words, maps, ['label', 'b\nc', '', 'd'], width=3,
                        colorbar=colorbar)
    texts = [text for text in figure.texts if text.get_bbox_patch()]
    labels = [text for text in figure.texts if text not in texts]
    assert [t.get_text() for t in labels] == ['label', 'b c', '', 'd']
    assert [t.get_text() for t in texts[30:33]] == [r'\$5', 'or', r'\$6']
    assert texts[-1].get_text() == 'two lines'
    patches = [text.get_bbox_patch() for text in texts]
    assert_apart(figure, *patches, labels[0], labels[1], labels[3])
    extents = [patch.get_window_extent() for patch in patches]
    left = extents[0].x0
    for a, b in zip(extents[:30], extents[1:30]):  # a line goes as far as it may
        below = b.y0 < a.y0 - 1
        assert below == (a.x1 + (b.x1 - b.x0) > left + 3 * 160 - 12)
        assert abs(b.x0 - left) < .1 if below else 4 < b.x0 - a.x1 < 10
        assert not below or 30 < a.y0 - b.y0 < 40
    firsts = [texts[i] for i in (0, 30, 33, 34)]
    x, y = np.transpose([t.get_position() for t in labels]) * figure.bbox.max[
        :, np.newaxis]
    np.testing.assert_allclose(  # beside their first words
        y, [t.get_position()[1] * figure.bbox.height for t in firsts])
    assert ((9 < left - x) & (left - x < 16)).all()
    assert (np.diff(y) < -45).all() and labels[0].get_ha() == 'right'
    height = labels[0].get_window_extent().height
    assert abs(texts[30].get_window_extent().height - height) < 1  # no formula
    if colorbar:
        ((x, y, width, height),) = boxes(figure)
        assert abs(x - left) < 6 and 9 < height < 16
        assert abs(x + width - max(extent.x1 for extent in extents)) < 6
        assert 9 < figure.bbox.width - x - width < 16
        assert 30 < figure.bbox.height - y - height < 50
    else:
        assert not figure.axes and abs(y[-1] - 26) < .5


@pytest.mark.parametrize('words, saliency, kwargs', [
    ([], [], {}), ([['a']] * 33, [[1]] * 33, {}), ([['a']], [[1], [2]], {}),
    ([['a']], [[1]], {'labels': []}), ([['a']], [[1]], {'kind': 'rgb'}),
    ([['a']], [[1]], {'width': 0}), ([['a']], [[1]], {'width': np.inf}),
    (['ab'], [[1, 2]], {}), ([['a'], ['b']], [[1], [1, 0]], {}),
    ([['a']], [[[[1]]]], {}), ([['a']], [1], {})])
def test_errors_of_words(words, saliency, kwargs):
    with pytest.raises(ValueError, match='plot_words'):
        plot_words(words, saliency, **kwargs)


def test_as_many_sentences_as_there_may_be():
    (bar,) = plot_words([['a']] * 32, [[1]] * 32, width=.5).axes
    assert bar.get_window_extent().width >= 160 - 1e-9


S = {'spatial_dims': 1}
VOLUME = np.zeros((4, 4, 4))


@pytest.mark.parametrize('images, maps, kwargs, word', [
    ((3,), Z, {}, 'images'), ((0, 4), Z, {}, 'images'),
    ((2, 4, 5, 2), Z, {}, 'images'),
    ((4, 8, 8), Z, {'data_format': 'channels_first'}, 'CHW'),
    (Z, Z, {'data_format': 'NCHW'}, 'channels_last'),
    ((3, 4, 5), Z, {}, 'data_format'), ((3, 4, 3), Z, {}, 'data_format'),
    ((2, 3, 4, 3), Z, {}, 'data_format'),
    ((3, 3), np.zeros((3, 3, 3)), {}, 'maps[0]'),
    (ZEROS, {'b': ZEROS[:, 1:]}, {}, "maps['b']"),
    (ZEROS, [(ZEROS[0], [1, 2])], {}, 'same shape'),
    ((33, 4, 4), np.zeros((33, 4, 4)), {}, '32'),
    (np.int64([[0, 1]]), Z[:1], {}, 'int64'), (Z + 1.5, Z, {}, '255'),
    (Z - .5, Z, {}, '-0.5'), (Z + np.nan, Z, {}, 'nan'),
    (Z, Z, {'kind': 'sign'}, 'absolute'),
    (Z, Z, {'kind': 'rgb', 'cmap': 'gray'}, 'cmap'),
    (Z, Z, {'titles': ['a', 'b']}, 'titles'),
    (ZEROS, ZEROS, {'labels': ['a']}, 'labels'),
    (Z, Z, {'spatial_dims': 4}, 'spatial'), (Z, Z, {'slices': 2}, 'slices'),
    ((2, 4, 9), np.zeros((2, 3, 9)), S, 'maps[0]'),
    ((1, 2, 3, 4), Z, S, 'images'), ([1, np.nan], [[1, 2]], S, 'finite'),
    ((11, 1, 4, 4, 4), np.zeros((11, 4, 4, 4)), {}, '33'),
    ((1, 1, 4, 4, 4), VOLUME, {'slices': 0}, '0'),
    ((1, 1, 4, 4, 4), VOLUME, {'slices': -1}, '0')])
def test_errors(images, maps, kwargs, word):
    images = np.zeros(images) if isinstance(images, tuple) else images
    with pytest.raises(ValueError, match=re.escape(word)):
        plot_saliency(images, maps, **kwargs)


@pytest.mark.parametrize('name, values', [
    ('percentile', [0, 101, np.nan]), ('limit', [0, -1, np.inf, np.nan]),
    ('overlay', [1.01, -.01, np.nan]), ('size', [0, -1, np.inf, np.nan])])
def test_numbers_out_of_range(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f'{name}.*got .*{value}'):
            plot_saliency(Z, Z, **{name: value})


@pytest.mark.parametrize('values, got', [
    ([1j], 'complex128'), (np.array([['a']]), '<U1'),
    (T.matrix('x'), 'TensorVariable'), (iter([Z]), 'list_iterator')])
def test_what_is_no_array_of_real_numbers(values, got):
    for call, name in [
            (normalize, 'values'), (map_to_rgb, 'saliency'),
            (lambda maps: plot_saliency(Z, {'a': maps}), "maps.'a'."),
            (lambda maps: plot_words([['a']], [maps]), 'saliency.0.')]:
        with pytest.raises(TypeError, match=f'{name}.*{got}'):
            call(values)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match=r'pip install "gradmod.examples.'):
        runpy.run_path(plot.__file__)
