"""Relevance, and methods with loops, on the device."""
import pytest

from . import graphs
from .convnet import MAPS, images, maps

pytestmark = pytest.mark.filterwarnings('ignore:The `image_shape` keyword')


@pytest.mark.parametrize('name', sorted(MAPS))
def test_relevance_and_loops(cpu, loops, maximum, name):
    f = maps(name, loops)
    convolutions = [type(n.op).__name__ for n in graphs.nodes(f.function, True)
                    if 'Conv' in str(n.op) or 'Corr' in str(n.op)]
    assert convolutions
    assert all(op.startswith('Gpu') for op in convolutions), convolutions
    assert graphs.difference(f(images()), cpu()[name]) < 1e-5
