from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from wsipipe.geometry import Region
from wsipipe.pipeline.pixel_source import PixelSource
from wsipipe.slides import MppView, open_slide


def test_threads_that_follow_each_other_share_a_handle_and_those_beside_each_other_do_not(slide_path, monkeypatch):
    region, opened = Region(3, 5, 70, 60), []
    with open_slide(slide_path, reader="openslide") as slide:
        monkeypatch.setattr(type(slide), "__enter__", lambda reader: opened.append(reader) or reader)
        view = MppView(slide, 1.0)
        plain = view.read(region)
        with PixelSource(view) as source:
            for _ in range(3):
                with ThreadPoolExecutor(1) as pool:
                    np.testing.assert_array_equal(pool.submit(source.read, (region,)).result()[0], plain)
            assert len(opened) == 1

            meet, read = Barrier(2), view.read
            monkeypatch.setattr(MppView, "read", lambda own, part, out: (meet.wait(5), read(part, out)))
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(source.read, [(region,), (region,)]))
            assert len(opened) == 2
